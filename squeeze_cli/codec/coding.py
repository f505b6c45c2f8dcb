"""Coding of the codes of several images into a block, which has a checksum of its own.

With the coding `packed`, a block is the packed codes and their CRC-32 (little-endian); with `prior`,
a range-coded stream whose state carries the CRC-32. The prior's contexts and counts start anew with
each image.
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
from squeeze_cli.codec.coefficient_prior import CoefficientPrior
from squeeze_cli.codec.prior import COUNT_LIMIT, OFFSETS, CodePrior, Prior
from squeeze_cli.codec.range_coding import TOTAL, StreamDecoder, encode_streams
from squeeze_cli.errors import DamagedCodesError

_CRC_BYTES = 4
# Slots are computed at once for so many vectors times code values: they fit a processor's cache (3 MB).
_BLOCK_ELEMENTS = 1 << 17
# Width of the border that causal neighbours need: rows above an image, and columns at each side.
_REACH = 2
# Rows and columns of the neighbours, and last of the vector itself, in an image with this border.
_DOWN, _RIGHT = np.transpose((*OFFSETS, (0, 0))) + _REACH


class Slots(NamedTuple):
    """Slots out of 2^20 that a prior gives each code, `[B, ...]`: the first, and their number."""

    starts: NDArray[np.int64]
    frequencies: NDArray[np.int64]

    @property
    def bits(self) -> float:
        """Total cross entropy of the codes in bits."""
        return -float(np.log2(self.frequencies / TOTAL).sum())


def encode_blocks(
    codes_nhwq: NDArray[np.integer], code_sizes: Sequence[int], images_b: Sequence[int],
    checksums_b: Sequence[int], prior: Prior | None = None, slots: Slots | None = None,
) -> list[bytes]:  # fmt: skip
    """Encode the codes `[n, h, w, Q]` of images into B blocks, range-coded with a prior, else packed.

    `images_b` is the number of images per block, the same for all but the last, which may have fewer.
    The CRC-32 of a block's codes continues its checksum in `checksums_b`. `slots` is the result of
    `slots_of_codes`, if it is known already. The prior may be for more codes per vector.
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
    known = slots_of_codes(codes_nhwq, prior) if slots is None else slots
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
        with _blas().limit(limits=1, user_api="blas"):
            codes, crcs = _decode(blocks, np.asarray(images_b), prior, len(code_sizes))
        decoded = [block[:images] for block, images in zip(codes, images_b, strict=True)]
    else:
        raise DamagedCodesError(f"codes of {code_sizes} on {grid}, but a prior for others")
    if crcs != [crc32_of_codes(*each) for each in zip(decoded, checksums_b, strict=True)]:
        raise DamagedCodesError("the CRC-32 of a block's codes differs")
    return np.concatenate(decoded).reshape(sum(images_b), *grid, len(code_sizes))


def crc32_of_codes(codes: NDArray[np.integer], before: int = 0) -> int:
    """Return the CRC-32 of the codes, each as four little-endian bytes, continued from `before`."""
    return zlib.crc32(codes.astype("<u4").tobytes(), before)


def pad_codes(codes_bhwq: NDArray[np.integer], code_sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return codes with a border, two rows above and two columns at each side, and all Q codes.

    Codes of the border have their size as value, which no vector has. So have a vector's later codes
    where only its first codes are given.
    """
    b, rows, columns, given = codes_bhwq.shape
    padded = np.empty((b, rows + _REACH, columns + 2 * _REACH, len(code_sizes)), np.int64)
    padded[:] = code_sizes
    padded[:, _REACH:, _REACH:-_REACH, :given] = codes_bhwq
    return padded


def context_of(
    padded: NDArray[np.int64], row: int | NDArray[np.int64], column: int | NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the codes `[B, ..., P + 1, Q]` of the P causal neighbours of vectors, then the vectors' own.

    `padded` is the result of `pad_codes`; `row` and `column` are the position of one vector, or arrays.
    """
    return padded[:, np.add.outer(row, _DOWN), np.add.outer(column, _RIGHT)]


def _fits(prior: Prior, grid: tuple[int, ...], code_sizes: Sequence[int]) -> bool:
    """Return whether a prior is for codes of these sizes on this grid, or for more codes per vector."""
    return (prior.grid, prior.code_sizes[: len(code_sizes)]) == (grid, tuple(code_sizes))


@cache
def _blas() -> ThreadpoolController:
    """Return the controller of the number of threads of NumPy's BLAS.

    Coding makes thousands of small matrix products. Where other processes use the cores too, threads
    that wait for each other after each product take several times as long as one thread.
    """
    return ThreadpoolController()


def _decode(
    streams: Sequence[bytes], images_b: NDArray[np.int64], prior: Prior, codes_per_vector: int
) -> tuple[NDArray[np.int32], list[int]]:
    """Decode B streams in parallel into codes and their CRC-32s."""
    decoder = StreamDecoder(streams)
    if isinstance(prior, CoefficientPrior):
        codes = _decode_coefficients(decoder, images_b, prior)
    else:
        assert isinstance(prior, CodePrior)
        codes = _decode_vectors(decoder, images_b, prior, codes_per_vector)
    return codes, decoder.finish()


def _decode_coefficients(
    decoder: StreamDecoder, images_b: NDArray[np.int64], prior: CoefficientPrior
) -> NDArray[np.int32]:
    """Decode coefficients one by one; `CoefficientPrior.slots` describes their order."""
    b, axes = len(images_b), len(prior.code_sizes)
    decoded = np.full((b, images_b.max(), *prior.grid, axes), prior.levels[0] // 2, np.int32)
    flat = decoded.reshape(b, images_b.max(), -1)
    used = list(zip(prior.places.tolist(), prior.which.tolist(), strict=True))
    others = prior.others.tolist()

    def decode(bounds: NDArray[np.int32], own: NDArray[np.int64]) -> NDArray[np.int64]:
        """Decode a symbol of the lanes `own`; for the others it holds all slots."""
        found = bounds.searchsorted(decoder.slots()[own], side="right") - 1
        start, frequency = np.zeros(b, np.int64), np.full(b, TOTAL, np.int64)
        start[own], frequency[own] = bounds[found], bounds[found + 1] - bounds[found]
        decoder.advance(start, frequency)
        return found

    for image in range(images_b.max()):
        active = np.flatnonzero(images_b > image)
        for place, which in used:
            flat[active, image, place] = decode(prior.bounds[which], active)
        flags = np.zeros((b, len(prior.flag_bounds)), np.int64)
        for frequency, bounds in enumerate(prior.flag_bounds):
            flags[active, frequency] = decode(bounds, active)
        for place in others:
            if (own := np.flatnonzero(flags[:, place // axes])).size:
                flat[own, image, place] = decode(prior.rest_bounds, own)
    return decoded


def _decode_vectors(
    decoder: StreamDecoder, images_b: NDArray[np.int64], prior: CodePrior, codes_per_vector: int
) -> NDArray[np.int32]:
    """Decode the codes of vectors, position by position."""
    sizes = prior.code_sizes
    b, (rows, columns) = len(images_b), prior.grid
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
    return decoded


def slots_of_codes(codes_bhwq: NDArray[np.integer], prior: Prior) -> Slots:
    """Return the slots that the prior gives each code, in the order in which they are coded.

    A prior of vectors may be for more codes per vector.
    """
    if isinstance(prior, CoefficientPrior):
        return Slots(*prior.slots(codes_bhwq))
    assert isinstance(prior, CodePrior)
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
        frequencies = evaluator.frequencies(positions, context_nc, counts).reshape(uses.shape)
        code = codes_bnq[..., q, None]
        frequency = np.take_along_axis(frequencies, code, axis=2)
        bounds = np.take_along_axis(frequencies.cumsum(axis=2, dtype=np.int32), code, axis=2)
        slots.starts[..., q, None] = bounds - frequency
        slots.frequencies[..., q, None] = frequency
    return slots
