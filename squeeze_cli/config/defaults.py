"""Defaults that more than one room needs. Every other default stands at its field in the schema."""

# Mask value of pixels that no loss and no metric counts.
IGNORE_INDEX = 255
# Classes of a trimap: pet, background, border.
TRIMAP_CLASSES = 3
BOTTLENECK_DIM = 64
CODEBOOK_SIZE = 512
RESIDUAL_CODEBOOK_SIZE = 256
