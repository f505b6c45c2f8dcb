"""Every default that more than one room needs, once."""

from __future__ import annotations

# Mask value of pixels that no loss and no metric counts.
IGNORE_INDEX = 255
BOTTLENECK_DIM = 64
CODEBOOK_SIZE = 512
RESIDUAL_CODEBOOK_SIZE = 256
