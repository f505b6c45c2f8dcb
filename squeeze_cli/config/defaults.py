"""Defaults that more than one folder needs. Others stand at their fields in `config/schema.py`."""

# Class index of pixels that no loss and no metric counts, and the mask value that is ignored where
# nothing else is said.
IGNORE_INDEX = 255
BOTTLENECK_DIM = 64
CODEBOOK_SIZE = 512
# Of each of the codebooks where a vector has several codes.
SMALL_CODEBOOK_SIZE = 256

# What `--codes` sets of options that are not given, with masks (docs/results.md). `plain` is the linear
# encoder of older scripts. vq's own rate is in `QUANTIZERS`: several codes per vector are for fidelity.
CODES: dict[str, dict[str, object]] = {
    "faithful": {
        "model.encoder": "conv", "model.reconstruction_weight": 0.5,
        "quantizer.encoder_lr_factor": 1.0,
    },
    "task": {
        "model.encoder": "conv", "quantizer.codebook_size": 8,
        "quantizer.rate_weight": 0.1, "quantizer.encoder_lr_factor": 1.0,
    },
    "plain": {"quantizer.rate_weight": 0.0},
}  # fmt: skip
