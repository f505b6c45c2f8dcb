"""Search for the weight of the rate, or the step, at which codes have the bits of `--target-bits`."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from squeeze_cli.config.defaults import RATE_WEIGHT, STEP_SIZE

# The search ends when the bits of a training differ from the target by at most this share.
TOLERANCE = 0.05
MOST_TRAININGS = 4
# Bounds of the slope of log(bits) over log(value) after two trainings.
_LEAST_SLOPE, _MOST_SLOPE = -0.1, -2.0
# Codebook size of vq for targets up to these bits per vector. With a weight of the rate, more codes
# than needed do no harm.
_SIZES = {1.0: 8, 2.2: 64, 3.2: 512, math.inf: 4096}


class Dial(NamedTuple):
    """Field of a quantizer that the search varies, from `least` to `most`; after one training the
    `slope` of log(bits) over log(value) is assumed."""

    field: str
    slope: float
    least: float
    most: float


_WEIGHT = Dial("rate_weight", -0.25, 1e-5, 30.0)
_DIALS = {"dct": Dial("step_size", -1.2, 0.05, 100.0)}


def dial_of(quantizer: str) -> Dial:
    """Return the field that is varied for a quantizer."""
    return _DIALS.get(quantizer, _WEIGHT)


def weight_of_step(step_size: float) -> float:
    """Return the default weight of the rate for a step of dct.

    The error by rounding grows with the square of the step, and the weight of a bit must grow likewise.
    """
    return RATE_WEIGHT * (step_size / STEP_SIZE) * (step_size / STEP_SIZE)


def first_step(target_bits: float) -> float:
    """Return the step of dct in the first training."""
    dial = dial_of("dct")
    found = STEP_SIZE * math.pow(2.5 / target_bits, -1 / dial.slope)
    return min(max(found, dial.least), dial.most)


def size_for(target_bits: float) -> int:
    """Return the codebook size of vq for a target in bits per vector."""
    return next(size for most, size in _SIZES.items() if target_bits <= most)


def first_weight(quantizer: str, target_bits: float) -> float:
    """Return the weight of the rate in the first training."""
    if quantizer != "vq":  # several codes per vector begin with many bits
        return 0.01
    return 0.1 if target_bits <= 1 else 0.05 if target_bits <= 2.2 else 0.03


def next_value(
    dial: Dial, tried: Sequence[tuple[float, float]], target_bits: float
) -> float | None:
    """Return the value of the dial for the next training, or None to end the search.

    `tried` has the value and the bits per vector of each training so far. The line through the two
    trainings nearest to the target, in log(bits) over log(value), gives the next value.
    """
    if abs(tried[-1][1] / target_bits - 1) <= TOLERANCE or len(tried) == MOST_TRAININGS:
        return None
    points = sorted(
        ((math.log(w), math.log(b / target_bits)) for w, b in tried), key=lambda each: abs(each[1])
    )
    slope = dial.slope
    if len(points) > 1:
        (x, y), (other_x, other_y) = points[:2]
        slope = (other_y - y) / (other_x - x)
    slope = min(max(slope, _MOST_SLOPE), _LEAST_SLOPE)
    found = math.exp(points[0][0] - points[0][1] / slope)
    found = min(max(found, dial.least), dial.most)
    return None if any(math.isclose(found, w, rel_tol=0.01) for w, _ in tried) else found
