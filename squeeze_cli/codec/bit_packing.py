"""Packing of codes into whole bits, as few as their sizes allow.

The codes of one or more vectors are the digits of an integer below 2^63 in mixed radix (the first
code is the least significant digit). Only this word is rounded up to whole bits, and written with the
most significant bit first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.errors import DamagedCodesError

# The value of a word must fit a signed 64-bit integer.
WORD_BITS = 63


@dataclass(frozen=True)
class WordLayout:
    """Layout of words whose codes have the sizes `radices`."""

    radices: tuple[int, ...]

    @cached_property
    def bits(self) -> int:
        """Size of a word."""
        return (prod(self.radices) - 1).bit_length()

    @cached_property
    def place_values(self) -> NDArray[np.int64]:
        """Place value of each digit of a word."""
        return np.cumprod((1, *self.radices[:-1]), dtype=np.int64)

    @cached_property
    def shifts(self) -> NDArray[np.int64]:
        """Position of each bit in the word, most significant first."""
        return np.arange(self.bits)[::-1]


@lru_cache
def choose_layouts(code_sizes: tuple[int, ...]) -> tuple[WordLayout, ...]:
    """Return one layout for all codes of a vector, or one for each of its Q codes.

    A word holds all codes of one or more vectors, as many as need the fewest bits per code. If a
    single vector's codes exceed 63 bits, each code is a word of its own.
    """
    if prod(code_sizes) >= 2**WORD_BITS:
        return tuple(WordLayout((size,)) for size in code_sizes)
    vectors = range(1, WORD_BITS + 1)
    choices = [WordLayout(code_sizes * n) for n in vectors if prod(code_sizes) ** n < 2**WORD_BITS]
    return (min(choices, key=lambda layout: layout.bits / len(layout.radices)),)


def check_codes(codes: NDArray[np.integer], code_sizes: Sequence[int]) -> None:
    """Raise ValueError unless each of the codes `[..., Q]` is below its size."""
    if ((codes < 0) | (codes >= np.asarray(code_sizes))).any():
        raise ValueError(f"codes outside of their sizes {tuple(code_sizes)}")


def pack_codes(codes_nq: NDArray[np.integer], code_sizes: Sequence[int]) -> bytes:
    """Pack codes `[N, Q]` into whole bytes; raises ValueError if a code is not below its size."""
    check_codes(codes_nq, code_sizes)
    bits = []
    for part, layout in _parts(codes_nq.astype(np.int64), code_sizes):
        in_word = len(layout.radices)
        digits = np.pad(part, (0, -len(part) % in_word)).reshape(-1, in_word)
        words = digits @ layout.place_values
        bits.append((words[:, None] >> layout.shifts & 1).astype(np.uint8).reshape(-1))
    return np.packbits(np.concatenate(bits)).tobytes()


def unpack_codes(payload: bytes, vectors: int, code_sizes: Sequence[int]) -> NDArray[np.int32]:
    """Unpack the bytes of `pack_codes` into codes `[N, Q]`, where N is `vectors`.

    Raises DamagedCodesError if `pack_codes` cannot have written these bytes.
    """
    layouts = choose_layouts(tuple(code_sizes))
    in_part = vectors * len(code_sizes) // len(layouts)
    counts = [-(-in_part // len(layout.radices)) for layout in layouts]
    bits = [count * layout.bits for count, layout in zip(counts, layouts, strict=True)]
    if len(payload) != -(-sum(bits) // 8):
        raise DamagedCodesError(f"{len(payload)} bytes are not the size of {vectors} vectors")
    *each, rest = np.split(np.unpackbits(np.frombuffer(payload, np.uint8)), np.cumsum(bits))
    codes = np.empty((vectors, len(code_sizes)), np.int64)
    for (part, layout), count, own in zip(_parts(codes, code_sizes), counts, each, strict=True):
        words = own.reshape(count, layout.bits) @ (1 << layout.shifts)
        digits = (words[:, None] // layout.place_values % layout.radices).reshape(-1)
        if (words >= prod(layout.radices)).any() or digits[len(part) :].any():
            raise DamagedCodesError("a code lies beyond its size")
        part[:] = digits[: len(part)]
    if rest.any():
        raise DamagedCodesError("the bits behind the last code are not zero")
    return codes.astype(np.int32)


def _parts(
    codes_nq: NDArray[np.int64], code_sizes: Sequence[int]
) -> Iterator[tuple[NDArray[np.int64], WordLayout]]:
    """Return flat views of the codes with their layouts: one for all codes, or one per column."""
    layouts = choose_layouts(tuple(code_sizes))
    return zip(codes_nq.reshape(-1, len(layouts)).T, layouts, strict=True)
