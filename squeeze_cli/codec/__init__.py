"""Codes to bytes and back, exactly: bit packing, range coding, the container.

NumPy only: reading and writing codes needs no torch. `docs/codes-format.md` describes the file.
"""
