"""Coding of each image's codes into a piece of the payload, which can be checked by itself.

`packed`: the packed codes, then the CRC-32 of the codes (little-endian). `prior`: a range-coded
stream, whose state carries the CRC-32.
"""

import zlib
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.bit_packing import check_codes, pack_codes, unpack_codes
from squeeze_cli.codec.prior import COUNT_LIMIT, OFFSETS, CodePrior
from squeeze_cli.codec.range_coding import TOTAL, StreamDecoder, encode_streams
from squeeze_cli.errors import DamagedCodesError

_CRC_BYTES = 4
# Vectors times values whose slots are computed at once: they fit the cache of a processor (3 MB).
_BLOCK_ELEMENTS = 1 << 17
# Rows above and columns at each side of an image within which its causal neighbours lie.
_REACH = 2


class Slots(NamedTuple):
    """The slots, of 2^20, that a prior gives codes `[B, N, Q]`: the first, and their number."""

    starts: NDArray[np.int64]
    frequencies: NDArray[np.int64]

    @property
    def bits(self) -> float:
        """Cross entropy of all these codes together, in bits."""
        return -float(np.log2(self.frequencies / TOTAL).sum())


def encode_pieces(
    codes_bhwq: NDArray[np.integer], code_sizes: Sequence[int], prior: CodePrior | None = None,
    slots: Slots | None = None,
) -> list[bytes]:  # fmt: skip
    """Encode each of the images' codes `[B, h, w, Q]` by a prior, or packed without one.

    `slots` are the prior's `slots_of_codes`, if they are known already. Raises ValueError if a code
    is not below its size, or if the prior is for other codes.
    """
    crcs = [crc32_of_codes(image) for image in codes_bhwq]
    if prior is None:
        return [
            pack_codes(image.reshape(-1, len(code_sizes)), code_sizes)
            + crc.to_bytes(_CRC_BYTES, "little")
            for image, crc in zip(codes_bhwq, crcs, strict=True)
        ]
    if prior.code_sizes != tuple(code_sizes) or prior.grid != codes_bhwq.shape[1:3]:
        raise ValueError(
            f"a prior for {prior.code_sizes} on {prior.grid}, codes of {tuple(code_sizes)} on "
            f"{codes_bhwq.shape[1:3]}"
        )
    check_codes(codes_bhwq, code_sizes)
    steps = prod(codes_bhwq.shape[1:])
    known = slots_of_codes(codes_bhwq, prior) if slots is None else slots
    starts, frequencies = (array.reshape(len(crcs), steps).T for array in known)
    return encode_streams(starts, frequencies, crcs)


def decode_pieces(
    pieces: Sequence[bytes], grid: tuple[int, int], code_sizes: Sequence[int],
    prior: CodePrior | None = None,
) -> NDArray[np.int32]:  # fmt: skip
    """Decode B pieces into codes `[B, h, w, Q]`.

    Raises DamagedCodesError if a piece is not one that `encode_pieces` wrote, or by another prior.
    """
    shape = (len(pieces), *grid, len(code_sizes))
    if not pieces:
        return np.empty(shape, np.int32)
    if prior is None:
        packed = [piece[:-_CRC_BYTES] for piece in pieces]
        images = [unpack_codes(piece, prod(grid), code_sizes) for piece in packed]
        codes = np.asarray(images).reshape(shape)
        crcs = [int.from_bytes(piece[-_CRC_BYTES:], "little") for piece in pieces]
    elif (prior.code_sizes, prior.grid) == (tuple(code_sizes), grid):
        codes, crcs = _decode_streams(pieces, prior)
    else:
        raise DamagedCodesError(f"codes of {code_sizes} on {grid}, but a prior for others")
    if crcs != [crc32_of_codes(image) for image in codes]:
        raise DamagedCodesError("the CRC-32 of an image's codes differs")
    return codes


def crc32_of_codes(codes: NDArray[np.integer]) -> int:
    """Return the CRC-32 of the codes row by row, each as four little-endian bytes."""
    return zlib.crc32(codes.astype("<u4").tobytes())


def pad_codes(codes_bhwq: NDArray[np.integer], code_sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return codes with a border, two rows above and two columns at each side.

    A code of the border is its size, a value that no vector has.
    """
    b, rows, columns, q = codes_bhwq.shape
    padded = np.empty((b, rows + _REACH, columns + 2 * _REACH, q), np.int64)
    padded[:] = code_sizes
    padded[:, _REACH:, _REACH:-_REACH] = codes_bhwq
    return padded


def context_of(
    padded: NDArray[np.int64], row: int | NDArray[np.int64], column: int | NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the codes `[B, ..., P + 1, Q]` of the P causal neighbours of vectors, and their own.

    `padded` is from `pad_codes`; the vectors stand at `row` and `column`, one each or an array.
    """
    down, right = np.transpose((*OFFSETS, (0, 0))) + _REACH
    return padded[:, np.add.outer(row, down), np.add.outer(column, right)]


def _decode_streams(
    streams: Sequence[bytes], prior: CodePrior
) -> tuple[NDArray[np.int32], list[int]]:
    """Decode B streams in parallel, position by position, into codes and their CRC-32s."""
    sizes = prior.code_sizes
    b, (rows, columns) = len(streams), prior.grid
    decoder = StreamDecoder(streams)
    padded = pad_codes(np.zeros((b, rows, columns, len(sizes)), np.int64), sizes)
    codes = padded[:, _REACH:, _REACH:-_REACH]
    counts = [np.zeros((b, size), np.uint8) for size in sizes]
    images = np.arange(b)
    for row, column in np.ndindex(rows, columns):
        position = np.asarray([row * columns + column])
        for q, evaluator in enumerate(prior.evaluators):
            context = context_of(padded, row, column).reshape(b, -1)
            frequencies = evaluator.frequencies(position, context, counts[q])
            bounds = frequencies.cumsum(axis=1, dtype=np.int32)
            found = (bounds > decoder.slots()[:, None]).argmax(axis=1)
            frequency = frequencies[images, found]
            decoder.advance(bounds[images, found] - frequency, frequency)
            codes[:, row, column, q] = found
            counts[q][images, found] += counts[q][images, found] < COUNT_LIMIT
    return codes.astype(np.int32), decoder.finish()


def slots_of_codes(codes_bhwq: NDArray[np.integer], prior: CodePrior) -> Slots:
    """Return the slots that the prior gives each code, from the codes before it."""
    images = max(1, _BLOCK_ELEMENTS // (prod(prior.grid) * max(prior.code_sizes)))
    blocks = [
        _slots_of_block(codes_bhwq[begin : begin + images], prior)
        for begin in range(0, max(1, len(codes_bhwq)), images)
    ]
    return Slots(*map(np.concatenate, zip(*blocks, strict=True)))


def _slots_of_block(codes_bhwq: NDArray[np.integer], prior: CodePrior) -> Slots:
    padded = pad_codes(codes_bhwq, prior.code_sizes)
    context = context_of(padded, *np.indices(prior.grid))
    b, n, q_count = len(context), prod(prior.grid), len(prior.code_sizes)
    context_nc = context.reshape(b * n, context.shape[3] * q_count)
    codes_bnq = codes_bhwq.reshape(b, n, q_count).astype(np.int64)
    positions = np.tile(np.arange(n), b)
    slots = Slots(*np.empty((2, b, n, q_count), np.int64))
    for q, evaluator in enumerate(prior.evaluators):
        uses = np.zeros((b, n, evaluator.size), np.min_scalar_type(n))
        np.put_along_axis(uses[:, 1:], codes_bnq[:, :-1, q, None], 1, axis=2)
        counts = uses.cumsum(axis=1, dtype=uses.dtype).reshape(b * n, evaluator.size)
        held = evaluator.frequencies(positions, context_nc, counts).reshape(uses.shape)
        code = codes_bnq[..., q, None]
        taken = np.take_along_axis(held, code, axis=2)
        bounds = np.take_along_axis(held.cumsum(axis=2, dtype=np.int32), code, axis=2)
        slots.starts[..., q, None] = bounds - taken
        slots.frequencies[..., q, None] = taken
    return slots
