"""Range coding of many streams side by side: asymmetric numeral systems (rANS) in NumPy.

Duda, 2013, arXiv:1311.2540. A stream's state is one integer; coding a symbol that has `frequency`
of the 2^20 slots multiplies it by about 2^20 / frequency, and whole bytes that the state cannot
hold go out. Symbol t of all streams is coded in one step, so a step costs a few array operations
however many streams there are.

Why not a library: constriction's coders end in 32-bit words and want a call for each stream and
position when the next probabilities depend on the last symbol. Here a stream ends on a byte, and
the state that encoding starts from carries a 32-bit seed (the codes' CRC-32) that decoding gives
back: the check costs its 32 bits and the usual flush of the state costs nothing on top.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.errors import DamagedCodesError

PRECISION_BITS = 20
TOTAL = 1 << PRECISION_BITS
# A state lies in [2^32, 2^40): bytes leave it before it would pass the upper bound.
_LOWER = 1 << 32
_STATE_BYTES = 5
_SLOT_MASK = np.uint64(TOTAL - 1)
_BYTE_MASK = np.uint64(255)
_EIGHT = np.uint64(8)
_PRECISION = np.uint64(PRECISION_BITS)
# A symbol of frequency f may be added to states below f * 2^20 and then stays below 2^40.
_RENORMALIZE = np.uint64(PRECISION_BITS)


def encode_streams(
    starts_tb: NDArray[np.integer], frequencies_tb: NDArray[np.integer], seeds_b: Sequence[int]
) -> list[bytes]:
    """Code T symbols of each of B streams; symbol t of stream b holds the slots
    `[start, start + frequency)` of 2^20.

    Args:
        starts_tb: `[T, B]`.
        frequencies_tb: `[T, B]`, each 1 or more.
        seeds_b: B integers of 32 bits, given back by `StreamDecoder.finish`.

    Returns:
        For each stream its bytes: what the symbols hold, 32 bits of the seed, and less than a byte
        and a half for the end.
    """
    steps, streams = starts_tb.shape
    starts = starts_tb.astype(np.uint64)
    frequencies = frequencies_tb.astype(np.uint64)
    state = np.asarray(seeds_b, dtype=np.uint64) + np.uint64(_LOWER)
    # A symbol sends out at most three bytes: its 20 bits on top of what the state could not hold.
    emitted = np.zeros((streams, 3 * steps), np.uint8)
    used = np.zeros(streams, np.int64)
    for step in range(steps - 1, -1, -1):
        frequency = frequencies[step]
        limit = frequency << _RENORMALIZE
        full = np.flatnonzero(state >= limit)
        while full.size:
            emitted[full, used[full]] = state[full] & _BYTE_MASK
            used[full] += 1
            state[full] >>= _EIGHT
            full = full[state[full] >= limit[full]]
        quotient, rest = np.divmod(state, frequency)
        state = (quotient << _PRECISION) + rest + starts[step]
    return [
        int(final).to_bytes(_STATE_BYTES, "big") + row[:count][::-1].tobytes()
        for final, row, count in zip(state, emitted, used, strict=True)
    ]


class StreamDecoder:
    """Decodes the streams of one batch in step: `slots`, then `advance`, for each symbol; `finish`.

    Args:
        payload: bytes of all streams.
        begins_b: where each stream begins.
        ends_b: where each ends.

    Raises:
        DamagedCodesError: here or in `finish`, where the bytes cannot be what the encoder wrote.
    """

    def __init__(
        self,
        payload: NDArray[np.uint8],
        begins_b: NDArray[np.int64],
        ends_b: NDArray[np.int64],
    ) -> None:
        if (ends_b - begins_b < _STATE_BYTES).any():
            raise DamagedCodesError("a stream is shorter than its state")
        # One byte more than there are: a stream that reads past the end is found by `finish`.
        self._payload = np.append(payload, np.uint8(0))
        self._next = begins_b + _STATE_BYTES
        self._ends = ends_b
        state = np.zeros(len(begins_b), np.uint64)
        for offset in range(_STATE_BYTES):
            state = (state << _EIGHT) | self._payload[begins_b + offset]
        self._state = state
        if (state < _LOWER).any():
            raise DamagedCodesError("a stream begins with an impossible state")

    def slots(self) -> NDArray[np.int64]:
        """For each stream the slot `[0, 2^20)` that its next symbol holds."""
        return (self._state & _SLOT_MASK).astype(np.int64)

    def advance(self, starts_b: NDArray[np.integer], frequencies_b: NDArray[np.integer]) -> None:
        """Take the symbol whose slots begin at `starts_b` off each stream."""
        slots = self._state & _SLOT_MASK
        frequencies = frequencies_b.astype(np.uint64)
        state = frequencies * (self._state >> _PRECISION) + slots - starts_b.astype(np.uint64)
        low = np.flatnonzero(state < _LOWER)
        while low.size:
            at = np.minimum(self._next[low], len(self._payload) - 1)
            state[low] = (state[low] << _EIGHT) | self._payload[at]
            self._next[low] += 1
            # A damaged stream can run dry: it stops at the end, and `finish` finds the difference.
            low = low[(state[low] < _LOWER) & (self._next[low] <= self._ends[low])]
        self._state = state

    def finish(self) -> NDArray[np.int64]:
        """The seeds that the streams were encoded with."""
        if (self._next != self._ends).any():
            raise DamagedCodesError("a stream is longer or shorter than its symbols")
        seeds = self._state - np.uint64(_LOWER)
        if (self._state < _LOWER).any() or (seeds >= 2**32).any():
            raise DamagedCodesError("a stream ends in an impossible state")
        return seeds.astype(np.int64)
