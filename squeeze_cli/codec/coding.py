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

CODINGS = ("packed", "prior")
_CRC_BYTES = 4
# Number of images whose streams are coded in parallel.
_STREAMS = 256
# Vectors times values whose slots are computed at once: they fit the cache of a processor (3 MB).
_BLOCK_ELEMENTS = 1 << 17
_REACH = 2


def encode_pieces(
    codes_bhwq: NDArray[np.integer],
    code_sizes: Sequence[int],
    prior: CodePrior | None = None,
    slots: Slots | None = None,
) -> list[bytes]:
    """Encode each of B images into a piece, packed or by a prior (`slots`: see there).

    Raises:
        ValueError: a code is not below its size, or the prior is for other codes.
    """
    if prior is None:
        return [
            pack_codes(image.reshape(-1, image.shape[-1]), code_sizes)
            + crc32_of_codes(image).to_bytes(_CRC_BYTES, "little")
            for image in codes_bhwq
        ]
    if prior.code_sizes != tuple(code_sizes) or prior.grid != codes_bhwq.shape[1:3]:
        raise ValueError(
            f"a prior for {prior.code_sizes} on {prior.grid}, codes of {tuple(code_sizes)} on "
            f"{codes_bhwq.shape[1:3]}"
        )
    if codes_bhwq.size and ((codes_bhwq < 0).any() or (codes_bhwq >= prior.code_sizes).any()):
        raise ValueError(f"codes outside of their sizes {prior.code_sizes}")
    return encode_with_prior(codes_bhwq, prior, slots)


def decode_pieces(
    pieces: Sequence[bytes],
    grid: tuple[int, int],
    code_sizes: Sequence[int],
    prior: CodePrior | None = None,
) -> NDArray[np.int32]:
    """Decode B pieces into codes `[B, h, w, Q]`; raises DamagedCodesError if one is damaged."""
    if prior is not None:
        return decode_with_prior(pieces, grid, prior)
    images = []
    for piece in pieces:
        codes = unpack_codes(piece[:-_CRC_BYTES], grid[0] * grid[1], code_sizes)
        if crc32_of_codes(codes) != int.from_bytes(piece[-_CRC_BYTES:], "little"):
            raise DamagedCodesError("the CRC-32 of an image's codes differs")
        images.append(codes)
    return np.asarray(images, np.int32).reshape(len(pieces), *grid, len(code_sizes))


class PaddedGrid:
    """Codes of B images with a border, so that each neighbour is a fixed distance in memory away.

    There are two rows above and two columns at each side. The codes of the border are K, a value
    that no vector has.

    Args:
        images: B.
        grid: rows and columns of an image.
        code_sizes: Q sizes; code q of the border is `code_sizes[q]`.
    """

    def __init__(self, images: int, grid: tuple[int, int], code_sizes: Sequence[int]) -> None:
        rows, columns = grid
        width = columns + 2 * _REACH
        self._flat = np.empty((images, (rows + _REACH) * width, len(code_sizes)), np.int64)
        self._flat[:] = code_sizes
        self._steps = np.asarray([row * width + column for row, column in OFFSETS])
        row, column = np.divmod(np.arange(rows * columns), max(1, columns))
        self._cells = (row + _REACH) * width + column + _REACH

    def fill(self, codes_bnq: NDArray[np.integer]) -> None:
        """Set all N = rows x columns vectors at once."""
        self._flat[:, self._cells] = codes_bnq

    def set(self, position: int, code: int, values_b: NDArray[np.integer]) -> None:
        """Set code `code` of the vector at `position` in all images."""
        self._flat[:, self._cells[position], code] = values_b

    def neighbours(self, position: int) -> NDArray[np.int64]:
        """Return the codes `[B, P, Q]` of the neighbours of one position."""
        return self._flat[:, self._cells[position] + self._steps]

    def all_neighbours(self) -> NDArray[np.int64]:
        """Return the codes `[B, N, P, Q]` of the neighbours of all positions."""
        return self._flat[:, self._cells[:, None] + self._steps]


class Slots(NamedTuple):
    """The slots, of 2^20, that a prior gives codes `[B, N, Q]`: the first, and their number."""

    starts: NDArray[np.int64]
    frequencies: NDArray[np.int64]

    @property
    def bits(self) -> float:
        """Cross entropy of all these codes together, in bits."""
        return -float(np.log2(self.frequencies / TOTAL).sum())


def crc32_of_codes(codes: NDArray[np.integer]) -> int:
    """Return the CRC-32 of the codes row by row, each as four little-endian bytes."""
    return zlib.crc32(codes.astype("<u4").tobytes())


def encode_with_prior(
    codes_bhwq: NDArray[np.integer], prior: CodePrior, slots: Slots | None = None
) -> list[bytes]:
    """Encode each of B images into a stream, which carries the CRC-32 of the image's codes.

    Args:
        codes_bhwq: `[B, h, w, Q]`.
        prior: the prior for these codes.
        slots: the result of `slots_of_codes`, if it is known already.
    """
    streams: list[bytes] = []
    for begin in range(0, len(codes_bhwq), _STREAMS):
        part = slice(begin, begin + _STREAMS)
        codes = codes_bhwq[part]
        known = slots_of_codes(codes, prior) if slots is None else Slots(*(s[part] for s in slots))
        starts, frequencies = (array.reshape(len(codes), -1).T for array in known)
        streams += encode_streams(starts, frequencies, [crc32_of_codes(image) for image in codes])
    return streams


def decode_with_prior(
    streams: Sequence[bytes], grid: tuple[int, int], prior: CodePrior
) -> NDArray[np.int32]:
    """Decode B streams in parallel, position by position, into codes `[B, h, w, Q]`.

    Raises:
        DamagedCodesError: a stream is not one that the encoder wrote.
    """
    if grid != prior.grid:
        raise DamagedCodesError(f"codes on {grid}, but a prior for {prior.grid}")
    b, n, sizes = len(streams), grid[0] * grid[1], prior.code_sizes
    codes = np.empty((b, n, len(sizes)), np.int64)
    if not b:
        return codes.reshape(b, *grid, len(sizes)).astype(np.int32)
    lengths = np.asarray([len(stream) for stream in streams])
    ends = np.cumsum(lengths)
    decoder = StreamDecoder(np.frombuffer(b"".join(streams), np.uint8), ends - lengths, ends)
    padded = PaddedGrid(b, grid, sizes)
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
            padded.set(position, q, found)
            counts[q][images, found] += counts[q][images, found] < COUNT_LIMIT
    for image, seed in zip(codes, decoder.finish(), strict=True):
        if crc32_of_codes(image) != seed:
            raise DamagedCodesError("the CRC-32 of an image's codes differs")
    return codes.reshape(b, *grid, len(sizes)).astype(np.int32)


def slots_of_codes(codes_bhwq: NDArray[np.integer], prior: CodePrior) -> Slots:
    """Return the slots that the prior gives each code, from the codes before it."""
    b, rows, columns, q = codes_bhwq.shape
    codes = codes_bhwq.reshape(b, rows * columns, q).astype(np.int64)
    slots = Slots(np.empty_like(codes), np.empty_like(codes))
    images = max(1, _BLOCK_ELEMENTS // max(1, rows * columns * max(prior.code_sizes)))
    for begin in range(0, b, images):
        block = slice(begin, begin + images)
        slots.starts[block], slots.frequencies[block] = _slots_of_block(codes[block], prior)
    return slots


def _slots_of_block(codes_bnq: NDArray[np.int64], prior: CodePrior) -> Slots:
    b, n, q_count = codes_bnq.shape
    padded = PaddedGrid(b, prior.grid, prior.code_sizes)
    padded.fill(codes_bnq)
    neighbours = padded.all_neighbours().reshape(b * n, -1, q_count)
    positions = np.tile(np.arange(n), b)
    slots = Slots(np.empty_like(codes_bnq), np.empty_like(codes_bnq))
    for q, evaluator in enumerate(prior.evaluators):
        code = codes_bnq[..., q].reshape(-1, 1)
        earlier = codes_bnq[..., :q].reshape(b * n, q)
        counts = _counts_before(codes_bnq[..., q], evaluator.size)
        held = evaluator.frequencies(positions, neighbours, earlier, counts)
        bounds = held.cumsum(axis=1, dtype=np.int32)
        taken = np.take_along_axis(held, code, axis=1)
        slots.starts[..., q] = (np.take_along_axis(bounds, code, axis=1) - taken).reshape(b, n)
        slots.frequencies[..., q] = taken.reshape(b, n)
    return slots


def _counts_before(codes_bn: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Count `[B * N, size]` how often each value came before in its image, up to `COUNT_LIMIT`."""
    b, n = codes_bn.shape
    counts = np.zeros((b, n, size), np.uint8)
    for image, codes in zip(counts, codes_bn.tolist(), strict=True):
        seen = [0] * size
        for position, code in enumerate(codes):
            if seen[code] < COUNT_LIMIT:
                seen[code] += 1
                image[position + 1 :, code] = seen[code]
    return counts.reshape(b * n, size)
