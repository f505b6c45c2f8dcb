"""Defaults that more than one folder needs. Others stand at their fields in `config/schema.py`."""

# Mask value of pixels that no loss and no metric counts. Stored masks hold it: a new value needs
# a new version of `Preprocessing.key`.
IGNORE_INDEX = 255
BOTTLENECK_DIM = 64
CODEBOOK_SIZE = 512
RESIDUAL_CODEBOOK_SIZE = 256
