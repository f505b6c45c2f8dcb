"""Defaults that more than one folder needs. Others stand at their fields in `config/schema.py`."""

# Class index of pixels that no loss and no metric counts, and the mask value that is ignored where
# nothing else is said.
IGNORE_INDEX = 255
BOTTLENECK_DIM = 64
CODEBOOK_SIZE = 512
# Of each of the codebooks where a vector has several codes.
SMALL_CODEBOOK_SIZE = 256
