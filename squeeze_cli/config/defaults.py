"""Defaults that more than one folder needs. Others are in the fields of `config/schema.py`."""

# Class index of pixels that losses and metrics leave out, and the default of `--ignore-index`.
IGNORE_INDEX = 255
BOTTLENECK_DIM = 64
CODEBOOK_SIZE = 512
# Codes per codebook of quantizers with several codes per vector.
SMALL_CODEBOOK_SIZE = 256
FSQ_LEVELS = (8, 5, 5, 5)
# Step of dct for the mean of a map, in units of the mean deviation of the bottleneck's channels.
STEP_SIZE = 0.85
LEVELS = 255  # values of a coefficient of dct
# Weight of the rate for this step; for other steps of dct see `weight_of_step` in `config/target.py`.
RATE_WEIGHT = 0.05

# Defaults that `--codes` sets for a training with masks (docs/results.md). `plain` is the linear encoder
# of older scripts. The weight of the rate of vq is in `QUANTIZERS`; rvq and pq, with several codes per
# vector for fidelity, have none by default.
CODES: dict[str, dict[str, object]] = {
    "faithful": {
        "model.encoder": "conv", "model.reconstruction_weight": 0.5,
        "quantizer.encoder_lr_factor": 1.0,
    },
    "task": {
        "model.encoder": "conv", "quantizer.codebook_size": 8, "quantizer.levels": (3, 3),
        "quantizer.step_size": 2 * STEP_SIZE, "quantizer.rate_weight": 0.1,
        "quantizer.encoder_lr_factor": 1.0,
    },
    "plain": {"quantizer.rate_weight": 0.0},
}  # fmt: skip
