"""The prior of transform coefficients: a distribution for each, which depends on no other code.

A coefficient is 0 with a probability of its own, and otherwise has a random sign and a magnitude that
is geometrically distributed. The many coefficients that are 0 in all training images are coded
together: a flag for each frequency says whether one of them is not 0, which is rare. All parameters
are integers in units of 1/256 nat, from which `frequencies_of` computes the same slots on all machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.prior import Array, Prior
from squeeze_cli.codec.range_coding import (
    STEPS_PER_NAT,
    TOTAL,
    Slots,
    StreamDecoder,
    frequencies_of,
)

# Pseudo-counts of the fit: of zeros and of other values, of magnitudes, and of steps beyond 1.
_VALUES, _MAGNITUDES, _EXCESS = 0.02, 0.8, 0.2
_LARGEST = 2**15 - 1
# Number of values per octave of fitted parameters: few, so that coefficients share distributions.
_VALUES_PER_OCTAVE = 16
# Limit on the entries of the table of distributions in memory (256 MB), for damaged files.
_MOST_ENTRIES = 2**26
# Images whose codes are converted at once.
_CHUNK = 64
# Magnitudes of the coefficients that are 0 in training: each is a third as frequent as the previous.
_REST_DECAY = 281


@dataclass(frozen=True)
class CoefficientPrior(Prior):
    """Integer distributions of the D coefficients of each frequency.

    Attributes:
        used: Which coefficients `[h, w, D]` uint8 are not 0 in some training image.
        zero: For each of these n, the logarithm `[n]` int16 of the probability of 0 over that of 1.
        decay: The logarithm `[n]` int16 of the probability of m over that of m + 1, for m ≥ 1.
        rest: For all others `[3]` int16: the logarithm of the probability that all of a frequency
            are 0 over that of the contrary, and then `zero` and `decay` of each.
        levels: Number of values of a coefficient `[1]` int32, odd; the middle one is 0.
    """

    version = 2
    used: Array
    zero: Array
    decay: Array
    rest: Array
    levels: Array

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Number of values of each of a frequency's coefficients."""
        sizes: tuple[int, ...] = (int(self.levels[0]),) * self.used.shape[2]
        return sizes

    @property
    def grid(self) -> tuple[int, int]:
        """Frequencies along the rows and columns."""
        return self.used.shape[0], self.used.shape[1]

    def arrays(self) -> dict[str, Array]:
        """Return all arrays by the names under which they are stored."""
        return {name: getattr(self, name) for name in _NAMES}

    @classmethod
    def from_arrays(cls, named: Mapping[str, Array]) -> Self:
        """Return the prior with these `arrays`, and check their types, shapes and values."""
        arrays = [named[name] for name in _NAMES]
        prior = cls(*arrays)
        count = len(prior.zero)
        if (
            [(a.dtype.char, a.ndim) for a in arrays]
            != list(zip("Bhhhi", (3, 1, 1, 1, 1), strict=True))
            or [len(a) for a in arrays[1:]] != [count, count, 3, 1]
            or count != np.count_nonzero(prior.used)
            or prior.used.max(initial=0) > 1
            or min(a.min(initial=0) for a in arrays) < 0
            or 0 in prior.used.shape
            or not 3 <= prior.levels[0] <= _LARGEST
            or prior.levels[0] % 2 == 0
            or len(prior.pairs[0][0]) * (int(prior.levels[0]) + 1) > _MOST_ENTRIES
        ):
            raise ValueError("it has other tensors")
        return prior

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Places of the used coefficients among all of an image's, `[n]`, in rising order."""
        return np.flatnonzero(self.used)

    @cached_property
    def others(self) -> NDArray[np.int64]:
        """Places of all other coefficients, in rising order."""
        return np.flatnonzero(self.used == 0)

    @cached_property
    def pairs(self) -> tuple[Array, Array]:
        """Pairs of `zero` and `decay` that occur, `[2, m]`, and which one each coefficient has."""
        pairs = np.repeat(self.rest[1:, None], self.used.size, axis=1)
        pairs[:, self.places] = self.zero, self.decay
        different, which = np.unique(pairs, axis=1, return_inverse=True)
        return different, which.reshape(-1)

    @cached_property
    def bounds(self) -> NDArray[np.int32]:
        """First slot of each value of m distributions, then 2^20, `[m, levels + 1]`."""
        zero, decay = self.pairs[0].astype(np.int64)[:, :, None]
        size = int(self.levels[0])
        magnitudes = np.abs(np.arange(size) - size // 2)
        steps = np.where(magnitudes == 0, 0, zero + (magnitudes - 1) * decay)
        return _cumulate(frequencies_of(steps))

    @property
    def which(self) -> Array:
        """Number of the distribution of each coefficient."""
        return self.pairs[1]

    @cached_property
    def flag_bounds(self) -> NDArray[np.int32]:
        """First slot of the flags 0 and 1 of each frequency, then 2^20, `[h * w, 3]`."""
        flag = _cumulate(frequencies_of(np.array([[0, int(self.rest[0])]])))
        has_others = (self.used == 0).any(axis=2).reshape(-1, 1)
        return np.where(has_others, flag, [0, TOTAL, TOTAL]).astype(np.int32)

    def slots(self, codes_bhwq: NDArray[np.integer]) -> Slots:
        """Return first slot and number of slots of each symbol `[B, T]` in the order of coding.

        The symbols of an image are its used coefficients, the flags of the frequencies, and its other
        coefficients, which have all slots where the flag of their frequency is 0; those that no image
        needs are left out.
        """
        b, (h, w, d) = len(codes_bhwq), self.used.shape
        codes = codes_bhwq.reshape(b, h * w * d)
        odd = (codes != self.levels[0] // 2) & (self.used == 0).reshape(-1)
        flags = odd.reshape(b, h * w, d).any(axis=2).astype(np.int64)
        others = self.others[flags.any(axis=0)[self.others // d]]
        flagged = flags[:, others // d] == 1
        own, rest, rows = codes[:, self.places], codes[:, others], np.arange(h * w)
        of_own, of_rest = self.which[self.places], self.which[others]
        first = [self.bounds[of_own, own], self.flag_bounds[rows, flags],
                 np.where(flagged, self.bounds[of_rest, rest], 0)]  # fmt: skip
        last = [self.bounds[of_own, own + 1], self.flag_bounds[rows, flags + 1],
                np.where(flagged, self.bounds[of_rest, rest + 1], TOTAL)]  # fmt: skip
        starts, ends = (np.concatenate(each, axis=1).astype(np.int64) for each in (first, last))
        return Slots(starts, ends - starts)

    def decode(
        self, decoder: StreamDecoder, images_b: NDArray[np.int64], codes_per_vector: int
    ) -> NDArray[np.int32]:
        """Decode coefficients one by one; `slots` describes their order."""
        b, axes = len(images_b), len(self.code_sizes)
        decoded = np.full((b, images_b.max(), *self.grid, axes), self.levels[0] // 2, np.int32)
        flat = decoded.reshape(b, images_b.max(), -1)
        places, others, which = self.places.tolist(), self.others.tolist(), self.which.tolist()

        def decode(bounds: NDArray[np.int32], own: NDArray[np.int64]) -> NDArray[np.int64]:
            """Decode a symbol of the lanes `own`; for the others it holds all slots."""
            found = bounds.searchsorted(decoder.slots()[own], side="right") - 1
            start, frequency = np.zeros(b, np.int64), np.full(b, TOTAL, np.int64)
            start[own], frequency[own] = bounds[found], bounds[found + 1] - bounds[found]
            decoder.advance(start, frequency)
            return found

        for image in range(images_b.max()):
            active = np.flatnonzero(images_b > image)
            for place in places:
                flat[active, image, place] = decode(self.bounds[which[place]], active)
            flags = np.zeros((b, len(self.flag_bounds)), np.int64)
            for frequency, bounds in enumerate(self.flag_bounds):
                flags[active, frequency] = decode(bounds, active)
            for place in others:
                if (own := np.flatnonzero(flags[:, place // axes])).size:
                    flat[own, image, place] = decode(self.bounds[which[place]], own)
        return decoded


_NAMES = ("used", "zero", "decay", "rest", "levels")


def fit_coefficients(codes_nhwq: NDArray[np.integer], levels: int) -> CoefficientPrior:
    """Fit the distributions to the codes `[n, h, w, D]` of training images, n at least 1.

    The fit maximizes the likelihood. The expected number of new coefficients in another image is that of
    the coefficients that are used by a single image, over n (Good, 1953, doi:10.1093/biomet/40.3-4.237).
    """
    images, shape = len(codes_nhwq), codes_nhwq.shape[1:]
    counts, sums = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for begin in range(0, images, _CHUNK):
        magnitudes = np.abs(codes_nhwq[begin : begin + _CHUNK].astype(np.int64) - levels // 2)
        counts += np.count_nonzero(magnitudes, axis=0)
        sums += magnitudes.sum(axis=0)
    used = counts > 0
    excess = (sums - counts)[used] + _EXCESS
    ratio = excess / (excess + counts[used] + _MAGNITUDES)
    one = (counts[used] + _VALUES) * (1 - ratio) / 2
    zero = np.log((images - counts[used] + _VALUES) / one)
    frequencies = max(1, int((~used).any(axis=2).sum()))  # with coefficients that are not used
    new = (np.count_nonzero(counts == 1) + 0.5) / (images * frequencies)
    rest = np.log([1 / new, 2 * max(1.0, (~used).sum() / frequencies)])
    return CoefficientPrior(
        used.astype(np.uint8), _in_steps(zero), np.maximum(_in_steps(-np.log(ratio)), 1),
        np.append(_in_steps(rest), np.int16(_REST_DECAY)), np.array([levels], np.int32),
    )  # fmt: skip


def _in_steps(nats: NDArray[np.float64]) -> NDArray[np.int16]:
    """Round logarithms to units of 1/256 nat, none below 0, and to `_VALUES_PER_OCTAVE`."""
    steps = np.clip(STEPS_PER_NAT * nats, 0, _LARGEST)
    unit = np.exp2(np.floor(np.log2(np.maximum(steps, 1)))) / _VALUES_PER_OCTAVE
    unit = np.maximum(unit, 1)
    return np.minimum(unit * np.rint(steps / unit), _LARGEST).astype(np.int16)


def _cumulate(frequencies_nk: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the first slot of each value, then 2^20, `[n, K + 1]`."""
    return np.pad(frequencies_nk.cumsum(axis=1, dtype=np.int32), ((0, 0), (1, 0)))
