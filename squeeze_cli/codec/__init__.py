"""Codes to bytes and back, exactly; NumPy does it, torch fits a prior. docs/codes-format.md has the
format."""
