"""Codes of images to pieces of a payload and back, each piece for itself, each checked.

`packed`: the packed codes, then the CRC-32 of the codes (little-endian). `prior`: a range-coded
stream, in whose state the CRC-32 is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.bit_packing import pack_codes, unpack_codes
from squeeze_cli.codec.errors import DamagedCodesError
from squeeze_cli.codec.prior import CodePrior
from squeeze_cli.codec.prior_coding import (
    Slots,
    crc32_of_codes,
    decode_with_prior,
    encode_with_prior,
)

CODINGS = ("packed", "prior")
_CRC_BYTES = 4


def encode_pieces(
    codes_bhwq: NDArray[np.integer],
    code_sizes: Sequence[int],
    prior: CodePrior | None = None,
    slots: Slots | None = None,
) -> list[bytes]:
    """A piece for each of B images, packed or by a prior, whose `slots` may be known.

    Raises ValueError for a code that is not below its size, or a prior for other codes.
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
    """The codes `[B, h, w, Q]` of B pieces; raises DamagedCodesError where one is damaged."""
    if prior is not None:
        return decode_with_prior(pieces, grid, prior)
    codes = np.empty((len(pieces), *grid, len(code_sizes)), np.int32)
    for image, piece in zip(codes, pieces, strict=True):
        unpacked = unpack_codes(piece[:-_CRC_BYTES], grid[0] * grid[1], code_sizes)
        image[...] = unpacked.reshape(image.shape)
        if crc32_of_codes(image) != int.from_bytes(piece[-_CRC_BYTES:], "little"):
            raise DamagedCodesError("the CRC-32 of an image's codes differs")
    return codes
