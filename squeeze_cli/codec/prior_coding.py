"""Grids of codes to range-coded streams by a prior, and back: one stream an image."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.errors import DamagedCodesError
from squeeze_cli.codec.neighbours import PaddedGrid
from squeeze_cli.codec.prior import COUNT_LIMIT, CodePrior
from squeeze_cli.codec.range_coding import TOTAL, StreamDecoder, encode_streams

# Images whose streams are coded side by side.
_STREAMS = 256
# Vectors times values whose slots are computed at once: what fits a processor's cache, about 3 MB.
_BLOCK_ELEMENTS = 1 << 17


class Slots(NamedTuple):
    """What a prior gives codes `[B, N, Q]` of their turn's 2^20 slots: the first, and how many."""

    starts: NDArray[np.int64]
    frequencies: NDArray[np.int64]

    @property
    def bits(self) -> float:
        """The cross entropy of all these codes together."""
        return -float(np.log2(self.frequencies / TOTAL).sum())


def encode_with_prior(
    codes_bhwq: NDArray[np.integer], prior: CodePrior, slots: Slots | None = None
) -> list[bytes]:
    """A stream for each of B images; it carries the CRC-32 of the image's codes.

    `slots` are the codes', where they are known; else they are computed, some images at a time.
    """
    streams: list[bytes] = []
    for begin in range(0, len(codes_bhwq), _STREAMS):
        part = slice(begin, begin + _STREAMS)
        codes = codes_bhwq[part]
        if slots is None:
            starts, frequencies = slots_of_codes(codes, prior)
        else:
            starts, frequencies = slots.starts[part], slots.frequencies[part]
        seeds = [crc32_of_codes(image) for image in codes]
        streams += encode_streams(
            starts.reshape(len(codes), -1).T, frequencies.reshape(len(codes), -1).T, seeds
        )
    return streams


def decode_with_prior(
    streams: Sequence[bytes], grid: tuple[int, int], prior: CodePrior
) -> NDArray[np.int32]:
    """The codes `[B, h, w, Q]` of B streams, side by side, position by position.

    Raises DamagedCodesError where a stream is not what the encoder wrote.
    """
    b, n, sizes = len(streams), grid[0] * grid[1], prior.code_sizes
    codes = np.empty((b, n, len(sizes)), np.int64)
    if not b:
        return codes.reshape(b, *grid, len(sizes)).astype(np.int32)
    ends = np.cumsum([len(stream) for stream in streams])
    begins = ends - [len(stream) for stream in streams]
    decoder = StreamDecoder(np.frombuffer(b"".join(streams), np.uint8), begins, ends)
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
    """The slots that each code holds when its turn comes."""
    b, rows, columns, q = codes_bhwq.shape
    codes = codes_bhwq.reshape(b, rows * columns, q).astype(np.int64)
    starts, frequencies = np.empty_like(codes), np.empty_like(codes)
    images = max(1, _BLOCK_ELEMENTS // max(1, rows * columns * max(prior.code_sizes)))
    for begin in range(0, b, images):
        block = slice(begin, begin + images)
        starts[block], frequencies[block] = _slots_of_block(codes[block], prior)
    return Slots(starts, frequencies)


def _slots_of_block(codes_bnq: NDArray[np.int64], prior: CodePrior) -> Slots:
    """`slots_of_codes`, all at once."""
    b, n, q_count = codes_bnq.shape
    padded = PaddedGrid(b, prior.grid, prior.code_sizes)
    padded.fill(codes_bnq)
    neighbours = padded.all_neighbours().reshape(b * n, -1, q_count)
    positions = np.tile(np.arange(n), b)
    starts, frequencies = np.empty_like(codes_bnq), np.empty_like(codes_bnq)
    for q, evaluator in enumerate(prior.evaluators):
        code = codes_bnq[..., q].reshape(-1, 1)
        earlier = codes_bnq[..., :q].reshape(b * n, q)
        counts = _counts_before(codes_bnq[..., q], evaluator.size)
        held = evaluator.frequencies(positions, neighbours, earlier, counts)
        bounds = held.cumsum(axis=1, dtype=np.int32)
        taken = np.take_along_axis(held, code, axis=1)
        starts[..., q] = (np.take_along_axis(bounds, code, axis=1) - taken).reshape(b, n)
        frequencies[..., q] = taken.reshape(b, n)
    return Slots(starts, frequencies)


def crc32_of_codes(codes: NDArray[np.integer]) -> int:
    """Over the codes row by row, each as four bytes, little-endian."""
    return zlib.crc32(codes.astype("<u4").tobytes())


def _counts_before(codes_bn: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """`[B * N, size]`: how often each value came earlier in its image, at most `COUNT_LIMIT`."""
    b, n = codes_bn.shape
    counts = np.zeros((b, n, size), np.uint8)
    for image, codes in zip(counts, codes_bn.tolist(), strict=True):
        seen = [0] * size
        for position, code in enumerate(codes):
            if seen[code] < COUNT_LIMIT:
                seen[code] += 1
                image[position + 1 :, code] = seen[code]
    return counts.reshape(b * n, size)
