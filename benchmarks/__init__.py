"""What is measured: each module prints its figures, and says how they came about."""
