"""Search for the weight of the rate at which codes have the bits per vector of `--target-bits`."""

import math
from collections.abc import Sequence

# The search ends when the bits of a training differ from the target by at most this share.
TOLERANCE = 0.05
MOST_TRAININGS = 4
# Slope of log(bits) over log(weight): the assumed one after one training, and bounds for later ones.
_USUAL_SLOPE, _LEAST_SLOPE, _MOST_SLOPE = -0.25, -0.1, -2.0
_LEAST_WEIGHT, _MOST_WEIGHT = 1e-5, 30.0
# Codebook size of vq for targets up to these bits per vector. With a weight of the rate, more codes
# than needed do no harm.
_SIZES = {1.0: 8, 2.2: 64, 3.2: 512, math.inf: 4096}


def size_for(target_bits: float) -> int:
    """Return the codebook size of vq for a target in bits per vector."""
    return next(size for most, size in _SIZES.items() if target_bits <= most)


def first_weight(quantizer: str, target_bits: float) -> float:
    """Return the weight of the rate in the first training."""
    if quantizer != "vq":  # several codes per vector begin with many bits
        return 0.01
    return 0.1 if target_bits <= 1 else 0.05 if target_bits <= 2.2 else 0.03


def next_weight(tried: Sequence[tuple[float, float]], target_bits: float) -> float | None:
    """Return the weight of the rate for the next training, or None to end the search.

    `tried` has the weight and the bits per vector of each training so far. The line through the two
    trainings nearest to the target, in log(bits) over log(weight), gives the next weight.
    """
    if abs(tried[-1][1] / target_bits - 1) <= TOLERANCE or len(tried) == MOST_TRAININGS:
        return None
    points = sorted(
        ((math.log(w), math.log(b / target_bits)) for w, b in tried), key=lambda each: abs(each[1])
    )
    slope = _USUAL_SLOPE
    if len(points) > 1:
        (x, y), (other_x, other_y) = points[:2]
        slope = (other_y - y) / (other_x - x)
    slope = min(max(slope, _MOST_SLOPE), _LEAST_SLOPE)
    found = math.exp(points[0][0] - points[0][1] / slope)
    found = min(max(found, _LEAST_WEIGHT), _MOST_WEIGHT)
    return None if any(math.isclose(found, w, rel_tol=0.01) for w, _ in tried) else found
