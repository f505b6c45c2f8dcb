"""Codes packed into as few whole bits as their sizes need, without a model of what they say.

Codes that share a word share its rounding: a vector's codes, and as many vectors as pay, are the
digits of one integer below 2^63 in mixed radix (the first code is the least significant), and the
integer takes `ceil(log2)` bits, most significant first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.errors import DamagedCodesError

# A word's value must fit a signed 64-bit integer.
WORD_BITS = 63


@dataclass(frozen=True)
class WordLayout:
    """How the codes `[N, Q]`, row by row, are cut into words.

    Attributes:
        radices: the code sizes that one word holds; Q of them, several times Q, or fewer.
        bits: what a word takes.
    """

    radices: tuple[int, ...]
    bits: int

    @property
    def bits_per_code(self) -> float:
        """Bits that each code takes on average."""
        return self.bits / len(self.radices)


def choose_layouts(code_sizes: Sequence[int]) -> tuple[WordLayout, ...]:
    """The words of a vector's codes: one layout that is repeated, or one for each code.

    All codes of a vector, and those of as many vectors as save bits, go into one word; where a
    single vector's codes pass 63 bits, each code is a word of its own.
    """
    sizes = tuple(code_sizes)
    if prod(sizes) >= 2**WORD_BITS:
        return tuple(_layout((size,)) for size in sizes)
    choices = [_layout(sizes)]
    while prod(choices[-1].radices + sizes) < 2**WORD_BITS and len(choices) < WORD_BITS:
        choices.append(_layout(choices[-1].radices + sizes))
    return (min(choices, key=lambda layout: layout.bits_per_code),)


def pack_codes(codes_nq: NDArray[np.integer], code_sizes: Sequence[int]) -> bytes:
    """Codes `[N, Q]` as bytes; the last byte is filled up with zeros.

    Raises ValueError for a code that is not below its size.
    """
    codes = np.ascontiguousarray(codes_nq, dtype=np.int64)
    if codes.size and ((codes < 0).any() or (codes >= np.asarray(code_sizes)).any()):
        raise ValueError(f"codes outside of their sizes {tuple(code_sizes)}")
    words = [
        (_digits_to_words(part, layout), layout.bits)
        for part, layout in _parts(codes, choose_layouts(code_sizes))
    ]
    bits = [_word_bits(values, width).reshape(-1) for values, width in words]
    return np.packbits(np.concatenate(bits) if bits else np.empty(0, np.uint8)).tobytes()


def unpack_codes(
    payload: bytes | NDArray[np.uint8], vectors: int, code_sizes: Sequence[int]
) -> NDArray[np.int32]:
    """The inverse of `pack_codes` for N = `vectors`: codes `[N, Q]`.

    Raises DamagedCodesError where the bytes are not what `pack_codes` makes of any codes.
    """
    raw = np.frombuffer(payload, np.uint8) if isinstance(payload, bytes) else payload
    if len(raw) != packed_bytes(vectors, code_sizes):
        raise DamagedCodesError(f"{len(raw)} bytes are not what {vectors} vectors take")
    bits = np.unpackbits(raw)
    codes = np.empty((vectors, len(code_sizes)), np.int64)
    begin = 0
    for part, layout in _parts(codes, choose_layouts(code_sizes)):
        count = _word_count(part.size, layout)
        end = begin + count * layout.bits
        values = _bits_to_words(bits[begin:end].reshape(count, layout.bits))
        _words_to_digits(values, layout, part)
        begin = end
    if bits[begin:].any():
        raise DamagedCodesError("the bits behind the last code are not zero")
    return codes.astype(np.int32)


def packed_bytes(vectors: int, code_sizes: Sequence[int]) -> int:
    """Bytes that `pack_codes` makes of `vectors` vectors."""
    layouts = choose_layouts(code_sizes)
    codes = vectors * len(code_sizes) // len(layouts)
    bits = sum(_word_count(codes, layout) * layout.bits for layout in layouts)
    return -(-bits // 8)


def _layout(radices: tuple[int, ...]) -> WordLayout:
    return WordLayout(radices, (prod(radices) - 1).bit_length())


def _word_count(codes: int, layout: WordLayout) -> int:
    return -(-codes // len(layout.radices))


def _parts(
    codes_nq: NDArray[np.int64], layouts: Sequence[WordLayout]
) -> list[tuple[NDArray[np.int64], WordLayout]]:
    """Views of the codes, flat, with the layout of each: all of them, or column by column."""
    if len(layouts) == 1:
        return [(codes_nq.reshape(-1), layouts[0])]
    return [(codes_nq[:, q], layout) for q, layout in enumerate(layouts)]


def _digits_to_words(codes: NDArray[np.int64], layout: WordLayout) -> NDArray[np.int64]:
    count, length = _word_count(codes.size, layout), len(layout.radices)
    digits = np.zeros(count * length, np.int64)
    digits[: codes.size] = codes
    values = np.zeros(count, np.int64)
    for radix, column in zip(
        reversed(layout.radices), digits.reshape(count, length).T[::-1], strict=True
    ):
        values = values * radix + column
    return values


def _words_to_digits(
    values: NDArray[np.int64], layout: WordLayout, codes: NDArray[np.int64]
) -> None:
    """Fill `codes` in place; what lies beyond them in the last word must be zero."""
    columns = []
    for radix in layout.radices:
        values, digit = np.divmod(values, radix)
        columns.append(digit)
    digits = np.stack(columns, axis=1).reshape(-1) if columns else np.empty(0, np.int64)
    if values.any() or digits[codes.size :].any():
        raise DamagedCodesError("a code lies beyond its size")
    codes[:] = digits[: codes.size]


def _word_bits(values: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    shifts = np.arange(width - 1, -1, -1, dtype=np.int64)
    return ((values[:, None] >> shifts) & 1).astype(np.uint8)


def _bits_to_words(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    values = np.zeros(len(bits), np.int64)
    for column in bits.T:
        values = (values << 1) | column
    return values
