"""Coding of the codes of some images into a block, which can be checked by itself.

`packed`: the packed codes, then their CRC-32 (little-endian). `prior`: a range-coded stream, whose
state carries the CRC-32. The prior's contexts and counts begin anew with each image.
"""

import zlib
from collections.abc import Sequence
from functools import cache
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from squeeze_cli.codec.bit_packing import check_codes, pack_codes, unpack_codes
from squeeze_cli.codec.prior import COUNT_LIMIT, OFFSETS, CodePrior
from squeeze_cli.codec.range_coding import TOTAL, StreamDecoder, encode_streams
from squeeze_cli.errors import DamagedCodesError

_CRC_BYTES = 4
# Vectors times values whose slots are computed at once: they fit the cache of a processor (3 MB).
_BLOCK_ELEMENTS = 1 << 17
# Rows above and columns at each side of an image within which its causal neighbours lie.
_REACH = 2
# Rows and columns of the neighbours and of the vector itself, which is last, with that border.
_DOWN, _RIGHT = np.transpose((*OFFSETS, (0, 0))) + _REACH


class Slots(NamedTuple):
    """The slots, of 2^20, that a prior gives codes `[B, N, Q]`: the first, and their number."""

    starts: NDArray[np.int64]
    frequencies: NDArray[np.int64]

    @property
    def bits(self) -> float:
        """Cross entropy of all these codes together, in bits."""
        return -float(np.log2(self.frequencies / TOTAL).sum())


def encode_blocks(
    codes_nhwq: NDArray[np.integer], code_sizes: Sequence[int], images_b: Sequence[int],
    checksums_b: Sequence[int], prior: CodePrior | None = None, slots: Slots | None = None,
) -> list[bytes]:  # fmt: skip
    """Encode the codes `[n, h, w, Q]` of images in B blocks, by a prior, or packed without one.

    All blocks have as many images but the last, which may have fewer. `checksums_b` are CRC-32s that
    those of the codes go on from, `slots` the prior's `slots_of_codes`, if they are known already.
    Of a prior for more codes per vector the first ones are coded.
    Raises ValueError if a code is not below its size, or if the prior is for other codes.
    """
    blocks = np.split(codes_nhwq, np.cumsum(images_b)[:-1]) if images_b else []
    crcs = [crc32_of_codes(*each) for each in zip(blocks, checksums_b, strict=True)]
    if prior is None:
        return [
            pack_codes(block.reshape(-1, len(code_sizes)), code_sizes)
            + crc.to_bytes(_CRC_BYTES, "little")
            for block, crc in zip(blocks, crcs, strict=True)
        ]
    if not _fits(prior, codes_nhwq.shape[1:3], code_sizes):
        raise ValueError(
            f"a prior for {prior.code_sizes} on {prior.grid}, codes of {tuple(code_sizes)} on "
            f"{codes_nhwq.shape[1:3]}"
        )
    check_codes(codes_nhwq, code_sizes)
    shape = (len(blocks), max(images_b, default=0) * prod(codes_nhwq.shape[1:]))
    known = slots_of_codes(codes_nhwq, prior) if slots is None else slots
    # A code that holds all slots leaves a stream as it is: so the last block is filled up.
    starts, frequencies = np.zeros(shape, np.int64), np.full(shape, TOTAL, np.int64)
    for filled, array in zip((starts, frequencies), known, strict=True):
        filled.reshape(-1)[: array.size] = array.reshape(-1)
    return encode_streams(starts.T, frequencies.T, crcs)


def decode_blocks(
    blocks: Sequence[bytes], images_b: Sequence[int], checksums_b: Sequence[int],
    grid: tuple[int, int], code_sizes: Sequence[int], prior: CodePrior | None = None,
) -> NDArray[np.int32]:  # fmt: skip
    """Decode B blocks of so many images each into codes `[n, h, w, Q]` of all their images.

    `checksums_b` are those of `encode_blocks`. Raises DamagedCodesError if a block is not one that
    `encode_blocks` wrote, or by another prior.
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
        with _blas().limit(limits=1, user_api="blas"):
            codes, crcs = _decode_streams(blocks, np.asarray(images_b), prior, len(code_sizes))
        decoded = [block[:images] for block, images in zip(codes, images_b, strict=True)]
    else:
        raise DamagedCodesError(f"codes of {code_sizes} on {grid}, but a prior for others")
    if crcs != [crc32_of_codes(*each) for each in zip(decoded, checksums_b, strict=True)]:
        raise DamagedCodesError("the CRC-32 of a block's codes differs")
    return np.concatenate(decoded).reshape(sum(images_b), *grid, len(code_sizes))


def crc32_of_codes(codes: NDArray[np.integer], before: int = 0) -> int:
    """Return the CRC-32 of the codes in order, each as four little-endian bytes, after `before`."""
    return zlib.crc32(codes.astype("<u4").tobytes(), before)


def pad_codes(codes_bhwq: NDArray[np.integer], code_sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return codes with a border, two rows above and two columns at each side, and all Q codes.

    A code of the border is its size, a value that no vector has, and so are the codes of vectors of
    which only the first ones are there.
    """
    b, rows, columns, given = codes_bhwq.shape
    padded = np.empty((b, rows + _REACH, columns + 2 * _REACH, len(code_sizes)), np.int64)
    padded[:] = code_sizes
    padded[:, _REACH:, _REACH:-_REACH, :given] = codes_bhwq
    return padded


def context_of(
    padded: NDArray[np.int64], row: int | NDArray[np.int64], column: int | NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the codes `[B, ..., P + 1, Q]` of the P causal neighbours of vectors, and their own.

    `padded` is from `pad_codes`; the vectors stand at `row` and `column`, one each or an array.
    """
    return padded[:, np.add.outer(row, _DOWN), np.add.outer(column, _RIGHT)]


def _fits(prior: CodePrior, grid: tuple[int, ...], code_sizes: Sequence[int]) -> bool:
    """Whether a prior is for codes of these sizes on this grid, or for more codes per vector."""
    return (prior.grid, prior.code_sizes[: len(code_sizes)]) == (grid, tuple(code_sizes))


@cache
def _blas() -> ThreadpoolController:
    """Return what limits the threads of NumPy's BLAS.

    Coding makes thousands of small matrix products. Threads that wait for each other at every one of
    them take a multiple of the time of one thread where other processes need the cores too.
    """
    return ThreadpoolController()


def _decode_streams(
    streams: Sequence[bytes], images_b: NDArray[np.int64], prior: CodePrior, codes_per_vector: int
) -> tuple[NDArray[np.int32], list[int]]:
    """Decode B streams in parallel, position by position, into codes and their CRC-32s."""
    sizes = prior.code_sizes
    b, (rows, columns) = len(streams), prior.grid
    decoder = StreamDecoder(streams)
    decoded = np.empty((b, images_b.max(), rows, columns, codes_per_vector), np.int32)
    lanes = np.arange(b)
    for image in range(images_b.max()):
        ended = np.flatnonzero(images_b <= image)
        padded = pad_codes(np.zeros(decoded[:, image].shape, np.int64), sizes)
        codes = padded[:, _REACH:, _REACH:-_REACH]
        counts = [np.zeros((b, size), np.uint8) for size in sizes]
        for row, column in np.ndindex(rows, columns):
            position = np.asarray([row * columns + column])
            for q, evaluator in enumerate(prior.evaluators[:codes_per_vector]):
                context = context_of(padded, row, column).reshape(b, -1)
                frequencies = evaluator.frequencies(position, context, counts[q])
                bounds = frequencies.cumsum(axis=1, dtype=np.int32)
                found = (bounds > decoder.slots()[:, None]).argmax(axis=1)
                frequency = frequencies[lanes, found]
                start = bounds[lanes, found] - frequency
                start[ended], frequency[ended] = 0, TOTAL
                decoder.advance(start, frequency)
                codes[:, row, column, q] = found
                counts[q][lanes, found] += counts[q][lanes, found] < COUNT_LIMIT
        decoded[:, image] = codes[..., :codes_per_vector]
    return decoded, decoder.finish()


def slots_of_codes(codes_bhwq: NDArray[np.integer], prior: CodePrior) -> Slots:
    """Return the slots that the prior gives each code, from the codes before it.

    Of a prior for more codes per vector the first ones are used.
    """
    images = max(1, _BLOCK_ELEMENTS // (prod(prior.grid) * max(prior.code_sizes)))
    with _blas().limit(limits=1, user_api="blas"):
        blocks = [
            _slots_of_block(codes_bhwq[begin : begin + images], prior)
            for begin in range(0, max(1, len(codes_bhwq)), images)
        ]
    return Slots(*map(np.concatenate, zip(*blocks, strict=True)))


def _slots_of_block(codes_bhwq: NDArray[np.integer], prior: CodePrior) -> Slots:
    padded = pad_codes(codes_bhwq, prior.code_sizes)
    context = context_of(padded, *np.indices(prior.grid))
    b, n, q_count = len(context), prod(prior.grid), codes_bhwq.shape[3]
    context_nc = context.reshape(b * n, context.shape[3] * context.shape[4])
    codes_bnq = codes_bhwq.reshape(b, n, q_count).astype(np.int64)
    positions = np.tile(np.arange(n), b)
    slots = Slots(*np.empty((2, b, n, q_count), np.int64))
    for q, evaluator in enumerate(prior.evaluators[:q_count]):
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
