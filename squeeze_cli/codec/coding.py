"""Coding of the codes of several images into a block, which has a checksum of its own.

With the coding `packed`, a block is the packed codes and their CRC-32 (little-endian); with `prior`,
a range-coded stream whose state carries the CRC-32. The prior's contexts and counts start anew with
each image.

In packed codes, those of one or more vectors are the digits of an integer below 2^63 in mixed radix
(the first code is the least significant digit). Only this word is rounded up to whole bits, and written
with the most significant bit first.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.prior import Prior
from squeeze_cli.codec.range_coding import TOTAL, Slots, StreamDecoder, encode_streams
from squeeze_cli.errors import DamagedCodesError

_CRC_BYTES = 4
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


def encode_blocks(
    codes_nhwq: NDArray[np.integer], code_sizes: Sequence[int], images_b: Sequence[int],
    checksums_b: Sequence[int], prior: Prior | None = None, slots: Slots | None = None,
) -> list[bytes]:  # fmt: skip
    """Encode the codes `[n, h, w, Q]` of images into B blocks, range-coded with a prior, else packed.

    `images_b` is the number of images per block, the same for all but the last, which may have fewer.
    The CRC-32 of a block's codes continues its checksum in `checksums_b`. `slots` is the result of
    the prior's `slots`, if it is known already. The prior may be for more codes per vector.
    Raises ValueError if a code is not below its size, or if the prior is for other codes.
    """
    blocks = np.split(codes_nhwq, np.cumsum(images_b)[:-1]) if images_b else []
    crcs = [crc32_of_codes(*each) for each in zip(blocks, checksums_b, strict=True)]
    if prior is None:
        packed = [pack_codes(block.reshape(-1, len(code_sizes)), code_sizes) for block in blocks]
        return [p + crc.to_bytes(_CRC_BYTES, "little") for p, crc in zip(packed, crcs, strict=True)]
    if not _fits(prior, codes_nhwq.shape[1:3], code_sizes):
        raise ValueError(
            f"a prior for {prior.code_sizes} on {prior.grid}, codes of {tuple(code_sizes)} on "
            f"{codes_nhwq.shape[1:3]}"
        )
    check_codes(codes_nhwq, code_sizes)
    known = prior.slots(codes_nhwq) if slots is None else slots
    shape = (len(blocks), max(images_b, default=0) * prod(known.starts.shape[1:]))
    # A code that holds all slots leaves a stream as it is: so the last block is filled up.
    starts, frequencies = np.zeros(shape, np.int64), np.full(shape, TOTAL, np.int64)
    for filled, array in zip((starts, frequencies), known, strict=True):
        filled.reshape(-1)[: array.size] = array.reshape(-1)
    coded = (frequencies != TOTAL).any(axis=0)
    return encode_streams(starts[:, coded].T, frequencies[:, coded].T, crcs)


def decode_blocks(
    blocks: Sequence[bytes], images_b: Sequence[int], checksums_b: Sequence[int],
    grid: tuple[int, int], code_sizes: Sequence[int], prior: Prior | None = None,
) -> NDArray[np.int32]:  # fmt: skip
    """Decode B blocks into the codes `[n, h, w, Q]` of all their images.

    `images_b` and `checksums_b` are the arguments of `encode_blocks`. Raises DamagedCodesError if a
    block is damaged, or was encoded with another prior.
    """
    if not blocks:
        return np.empty((0, *grid, len(code_sizes)), np.int32)
    if prior is None:
        decoded = [
            unpack_codes(block[:-_CRC_BYTES], images * prod(grid), code_sizes)
            for block, images in zip(blocks, images_b, strict=True)
        ]
        crcs = [int.from_bytes(block[-_CRC_BYTES:], "little") for block in blocks]
    elif _fits(prior, grid, code_sizes):
        decoder = StreamDecoder(blocks)
        codes = prior.decode(decoder, np.asarray(images_b), len(code_sizes))
        decoded = [block[:images] for block, images in zip(codes, images_b, strict=True)]
        crcs = decoder.finish()
    else:
        raise DamagedCodesError(f"codes of {code_sizes} on {grid}, but a prior for others")
    if crcs != [crc32_of_codes(*each) for each in zip(decoded, checksums_b, strict=True)]:
        raise DamagedCodesError("the CRC-32 of a block's codes differs")
    return np.concatenate(decoded).reshape(sum(images_b), *grid, len(code_sizes))


def crc32_of_codes(codes: NDArray[np.integer], before: int = 0) -> int:
    """Return the CRC-32 of the codes, each as four little-endian bytes, continued from `before`."""
    return zlib.crc32(codes.astype("<u4").tobytes(), before)


def _fits(prior: Prior, grid: tuple[int, ...], code_sizes: Sequence[int]) -> bool:
    """Return whether a prior is for codes of these sizes on this grid, or for more codes per vector."""
    return (prior.grid, prior.code_sizes[: len(code_sizes)]) == (grid, tuple(code_sizes))
