"""The table of cases: small inputs, and what must happen to each; `table.py` explains a row."""
