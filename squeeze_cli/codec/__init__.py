"""Codes to bytes and back, exactly: bit packing, the prior, range coding, the container.

Reading and writing codes needs NumPy only; torch fits a prior. `docs/codes-format.md` describes the
file.
"""
