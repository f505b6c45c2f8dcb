"""Coding of each image's codes into a piece of the payload, which can be checked by itself.

`packed`: the packed codes, then the CRC-32 of the codes (little-endian). `prior`: a range-coded
stream, whose state carries the CRC-32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.bit_packing import pack_codes, unpack_codes
from squeeze_cli.codec.prior import CodePrior
from squeeze_cli.codec.prior_coding import (
    Slots,
    crc32_of_codes,
    decode_with_prior,
    encode_with_prior,
)
from squeeze_cli.errors import DamagedCodesError

CODINGS = ("packed", "prior")
_CRC_BYTES = 4


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
