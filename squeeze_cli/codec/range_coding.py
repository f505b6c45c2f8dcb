"""Range coding of many streams in parallel: asymmetric numeral systems (rANS) in NumPy.

Duda, 2013, arXiv:1311.2540. The state of a stream is one integer. Coding a symbol that holds
`frequency` of the 2^20 slots multiplies it by about 2^20 / frequency; whole bytes that no longer fit
the state are written out. Symbol t of all streams is coded in one step, so that a step takes a few
array operations for any number of streams.

No library is used here: constriction's coders end in 32-bit words and need a call per stream and
position if the next probabilities depend on the last symbol. Here a stream ends on a byte, and the
initial state carries a 32-bit seed (the codes' CRC-32), which decoding returns.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.errors import DamagedCodesError

PRECISION_BITS = 20
TOTAL = 1 << PRECISION_BITS
# Logarithms of probabilities are integers in units of 1/256 nat.
STEPS_PER_NAT = 256
# A state lies in [2^32, 2^40): bytes are written out before it would exceed the upper bound.
_LOWER = 1 << 32
_STATE_BYTES = 5


class Slots(NamedTuple):
    """Slots out of 2^20 that a prior gives each code, `[B, ...]`: the first, and their number."""

    starts: NDArray[np.int64]
    frequencies: NDArray[np.int64]

    @property
    def bits(self) -> float:
        """Total cross entropy of the codes in bits."""
        return -float(np.log2(self.frequencies / TOTAL).sum())


def frequencies_of(steps_nk: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return the number of slots out of 2^20, at least one, of each of K values, `[n, K]`.

    `steps_nk` is how many units of 1/256 nat a value is below the most probable one.
    """
    # "clip" takes the last entry of the table for steps beyond it.
    weights = exponentials().take(steps_nk, mode="clip")
    weights *= (TOTAL - steps_nk.shape[1]) / weights.sum(axis=1, keepdims=True)
    frequencies: NDArray[np.int32] = weights.astype(np.int32)
    frequencies += 1
    # The slots that rounding has left go to the most probable value.
    left = TOTAL - frequencies.sum(axis=1, dtype=np.int32)
    frequencies[np.arange(len(left)), steps_nk.argmin(axis=1)] += left
    return frequencies


@lru_cache(maxsize=1)
def exponentials() -> NDArray[np.float64]:
    """Return 2^24 exp(-i / 256) for i below 4096, rounded to integers, equal on all machines.

    They end at 16 nats: a code of lower probability has its single slot of 2^20 anyway.
    """
    exact = [(Decimal(-i) / STEPS_PER_NAT).exp() * 2**24 for i in range(16 * STEPS_PER_NAT)]
    return np.asarray([int(entry + Decimal("0.5")) for entry in exact], np.float64)


def encode_streams(
    starts_tb: NDArray[np.int64], frequencies_tb: NDArray[np.int64], seeds_b: Sequence[int]
) -> list[bytes]:
    """Encode T symbols of each of B streams; symbol t holds the slots `[start, start + frequency)`.

    Each frequency is 1 or more; the seeds are integers of 32 bits, which `StreamDecoder.finish`
    returns. A stream takes the information of its symbols, 32 bits of the seed, and less than 12
    bits for the end.
    """
    steps, streams = starts_tb.shape
    state = np.asarray(seeds_b, np.int64) + _LOWER
    # A symbol writes at most three bytes: 20 bits in addition to those that did not fit the state.
    emitted = np.zeros((streams, 3 * steps), np.uint8)
    used = np.zeros(streams, np.int64)
    for start, frequency in zip(starts_tb[::-1], frequencies_tb[::-1], strict=True):
        limit = frequency << PRECISION_BITS  # below it, the symbol keeps the state below 2^40
        while (full := np.flatnonzero(state >= limit)).size:
            emitted[full, used[full]] = state[full] & 255
            used[full] += 1
            state[full] >>= 8
        quotient, rest = np.divmod(state, frequency)
        state = (quotient << PRECISION_BITS) + rest + start
    return [
        int(final).to_bytes(_STATE_BYTES, "big") + row[:count][::-1].tobytes()
        for final, row, count in zip(state, emitted, used, strict=True)
    ]


class StreamDecoder:
    """Decoder of B streams: call `slots`, then `advance`, for each symbol; at the end `finish`.

    Raises:
        DamagedCodesError: A stream is damaged; `finish` raises it too.
    """

    def __init__(self, streams: Sequence[bytes]) -> None:
        lengths = np.asarray([len(stream) for stream in streams], np.int64)
        if (lengths < _STATE_BYTES).any():
            raise DamagedCodesError("a stream is shorter than its state")
        # The additional byte lets a damaged stream read past the end, which `finish` detects.
        self._payload = np.frombuffer(b"".join((*streams, b"\0")), np.uint8)
        self._ends = np.cumsum(lengths)
        self._next = self._ends - lengths + _STATE_BYTES
        states = [int.from_bytes(stream[:_STATE_BYTES], "big") for stream in streams]
        self._state = np.asarray(states, np.int64)
        if (self._state < _LOWER).any():
            raise DamagedCodesError("a stream begins with an impossible state")

    def slots(self) -> NDArray[np.int64]:
        """Return for each stream a slot in `[0, 2^20)` that its next symbol holds."""
        return self._state & (TOTAL - 1)

    def advance(self, starts_b: NDArray[np.integer], frequencies_b: NDArray[np.integer]) -> None:
        """Remove the symbol with these slots from each stream."""
        self._state = frequencies_b * (self._state >> PRECISION_BITS) + self.slots() - starts_b
        # A damaged stream stops behind its end, which `finish` detects.
        while (low := np.flatnonzero((self._state < _LOWER) & (self._next <= self._ends))).size:
            self._state[low] = (self._state[low] << 8) | self._payload[self._next[low]]
            self._next[low] += 1

    def finish(self) -> list[int]:
        """Return the seeds that the streams were encoded with."""
        seeds = self._state - _LOWER
        if (self._next != self._ends).any():
            raise DamagedCodesError("a stream is longer or shorter than its symbols")
        if (seeds < 0).any() or (seeds >= _LOWER).any():
            raise DamagedCodesError("a stream ends in an impossible state")
        return [int(seed) for seed in seeds]
