"""Coding of each image's codes into a piece of the payload, which can be checked by itself.

`packed`: the packed codes, then the CRC-32 of the codes (little-endian). `prior`: a range-coded
stream, whose state carries the CRC-32.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.bit_packing import pack_codes, unpack_codes
from squeeze_cli.codec.prior import COUNT_LIMIT, OFFSETS, CodePrior
from squeeze_cli.codec.range_coding import TOTAL, StreamDecoder, encode_streams
from squeeze_cli.errors import DamagedCodesError

_CRC_BYTES = 4
# Vectors times values whose slots are computed at once: they fit the cache of a processor (3 MB).
_BLOCK_ELEMENTS = 1 << 17
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
    codes_bhwq: NDArray[np.integer],
    code_sizes: Sequence[int],
    prior: CodePrior | None = None,
    slots: Slots | None = None,
) -> list[bytes]:
    """Encode each of B images into a piece, packed or by a prior.

    Args:
        codes_bhwq: `[B, h, w, Q]`.
        code_sizes: Q sizes.
        prior: the prior for these codes; without one they are packed.
        slots: the prior's `slots_of_codes`, if they are known already.

    Raises:
        ValueError: a code is not below its size, or the prior is for other codes.
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
    if codes_bhwq.size and ((codes_bhwq < 0).any() or (codes_bhwq >= prior.code_sizes).any()):
        raise ValueError(f"codes outside of their sizes {prior.code_sizes}")
    known = slots_of_codes(codes_bhwq, prior) if slots is None else slots
    steps = int(np.prod(codes_bhwq.shape[1:]))
    starts, frequencies = (array.reshape(len(crcs), steps).T for array in known)
    return encode_streams(starts, frequencies, crcs)


def decode_pieces(
    pieces: Sequence[bytes],
    grid: tuple[int, int],
    code_sizes: Sequence[int],
    prior: CodePrior | None = None,
) -> NDArray[np.int32]:
    """Decode B pieces into codes `[B, h, w, Q]`.

    Raises:
        DamagedCodesError: a piece is not one that `encode_pieces` wrote, or by another prior.
    """
    shape = (len(pieces), *grid, len(code_sizes))
    if not pieces:
        return np.empty(shape, np.int32)
    if prior is None:
        vectors = grid[0] * grid[1]
        images = [unpack_codes(piece[:-_CRC_BYTES], vectors, code_sizes) for piece in pieces]
        codes = np.asarray(images).reshape(shape)
        crcs = [int.from_bytes(piece[-_CRC_BYTES:], "little") for piece in pieces]
    elif (prior.code_sizes, prior.grid) == (tuple(code_sizes), grid):
        codes, crcs = _decode_streams(pieces, prior)
    else:
        raise DamagedCodesError(f"codes of {code_sizes} on {grid}, but a prior for others")
    if crcs != [crc32_of_codes(image) for image in codes]:
        raise DamagedCodesError("the CRC-32 of an image's codes differs")
    return codes.reshape(shape)


def crc32_of_codes(codes: NDArray[np.integer]) -> int:
    """Return the CRC-32 of the codes row by row, each as four little-endian bytes."""
    return zlib.crc32(codes.astype("<u4").tobytes())


class PaddedGrid:
    """Codes of B images with a border, so that each neighbour is a fixed distance in memory away.

    The border has two rows above and two columns at each side. Its code q is `code_sizes[q]`, a
    value that no vector has. `grid` has the rows and columns of an image, with N vectors.
    """

    def __init__(self, images: int, grid: tuple[int, int], code_sizes: Sequence[int]) -> None:
        rows, columns = grid
        width = columns + 2 * _REACH
        self._flat = np.empty((images, (rows + _REACH) * width, len(code_sizes)), np.int64)
        self._flat[:] = code_sizes
        row, column = np.divmod(np.arange(rows * columns), columns)
        self._cells = (row + _REACH) * width + column + _REACH
        steps = [row * width + column for row, column in OFFSETS]
        self._neighbours = self._cells[:, None] + steps

    def set(
        self,
        codes: NDArray[np.integer],
        position: int | slice = slice(None),
        code: int | slice = slice(None),
    ) -> None:
        """Set codes `[B, N, Q]` of all positions, or `[B]` of one position and one of its codes."""
        self._flat[:, self._cells[position], code] = codes

    def neighbours(self, position: int | slice = slice(None)) -> NDArray[np.int64]:
        """Return the codes `[B, N, P, Q]` of the neighbours of all positions, or those of one."""
        return self._flat[:, self._neighbours[position]]


def _decode_streams(
    streams: Sequence[bytes], prior: CodePrior
) -> tuple[NDArray[np.int32], list[int]]:
    """Decode B streams in parallel, position by position, into codes `[B, N, Q]` and B CRC-32s."""
    b, n, sizes = len(streams), prior.grid[0] * prior.grid[1], prior.code_sizes
    codes = np.empty((b, n, len(sizes)), np.int64)
    decoder = StreamDecoder(streams)
    padded = PaddedGrid(b, prior.grid, sizes)
    counts = [np.zeros((b, size), np.uint8) for size in sizes]
    images = np.arange(b)
    for position in range(n):
        neighbours = padded.neighbours(position)
        at = np.asarray([position])
        for q, evaluator in enumerate(prior.evaluators):
            earlier = codes[:, position, :q]
            frequencies = evaluator.frequencies(at, neighbours, earlier, counts[q])
            bounds = frequencies.cumsum(axis=1, dtype=np.int32)
            found = (bounds > decoder.slots()[:, None]).argmax(axis=1)
            frequency = frequencies[images, found]
            decoder.advance(bounds[images, found] - frequency, frequency)
            codes[:, position, q] = found
            padded.set(found, position, q)
            counts[q][images, found] += counts[q][images, found] < COUNT_LIMIT
    return codes.astype(np.int32), decoder.finish()


def slots_of_codes(codes_bhwq: NDArray[np.integer], prior: CodePrior) -> Slots:
    """Return the slots that the prior gives each code, from the codes before it."""
    b, rows, columns, q = codes_bhwq.shape
    codes = codes_bhwq.reshape(b, rows * columns, q).astype(np.int64)
    slots = Slots(np.empty_like(codes), np.empty_like(codes))
    images = max(1, _BLOCK_ELEMENTS // (rows * columns * max(prior.code_sizes)))
    for begin in range(0, b, images):
        block = slice(begin, begin + images)
        slots.starts[block], slots.frequencies[block] = _slots_of_block(codes[block], prior)
    return slots


def _slots_of_block(codes_bnq: NDArray[np.int64], prior: CodePrior) -> Slots:
    b, n, q_count = codes_bnq.shape
    padded = PaddedGrid(b, prior.grid, prior.code_sizes)
    padded.set(codes_bnq)
    neighbours = padded.neighbours().reshape(b * n, -1, q_count)
    positions = np.tile(np.arange(n), b)
    slots = Slots(np.empty_like(codes_bnq), np.empty_like(codes_bnq))
    for q, evaluator in enumerate(prior.evaluators):
        code = codes_bnq[..., q].reshape(-1, 1)
        earlier = codes_bnq[..., :q].reshape(b * n, q)
        uses = np.zeros((b, n, evaluator.size), np.min_scalar_type(n))
        np.put_along_axis(uses[:, 1:], codes_bnq[:, :-1, q, None], 1, axis=2)
        counts = uses.cumsum(axis=1, dtype=uses.dtype).reshape(b * n, -1)
        held = evaluator.frequencies(positions, neighbours, earlier, counts)
        taken = np.take_along_axis(held, code, axis=1)
        bounds = np.take_along_axis(held.cumsum(axis=1, dtype=np.int32), code, axis=1)
        slots.starts[..., q] = (bounds - taken).reshape(b, n)
        slots.frequencies[..., q] = taken.reshape(b, n)
    return slots
