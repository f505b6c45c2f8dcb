"""Codes of images to pieces of a payload and back, each piece for itself, each checked.

`packed`: the packed codes, then the CRC-32 of the codes (little-endian).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.bit_packing import pack_codes, unpack_codes
from squeeze_cli.codec.errors import DamagedCodesError

CODINGS = ("packed",)
_CRC_BYTES = 4


def encode_pieces(codes_bhwq: NDArray[np.integer], code_sizes: Sequence[int]) -> list[bytes]:
    """A piece for each of B images; raises ValueError for a code that is not below its size."""
    return [
        pack_codes(image.reshape(-1, image.shape[-1]), code_sizes)
        + _crc32(image).to_bytes(_CRC_BYTES, "little")
        for image in codes_bhwq
    ]


def decode_pieces(
    pieces: Sequence[bytes], grid: tuple[int, int], code_sizes: Sequence[int]
) -> NDArray[np.int32]:
    """The codes `[B, h, w, Q]` of B pieces; raises DamagedCodesError where one is damaged."""
    codes = np.empty((len(pieces), *grid, len(code_sizes)), np.int32)
    for image, piece in zip(codes, pieces, strict=True):
        unpacked = unpack_codes(piece[:-_CRC_BYTES], grid[0] * grid[1], code_sizes)
        image[...] = unpacked.reshape(image.shape)
        if _crc32(image) != int.from_bytes(piece[-_CRC_BYTES:], "little"):
            raise DamagedCodesError("the CRC-32 of an image's codes differs")
    return codes


def _crc32(codes: NDArray[np.integer]) -> int:
    """Over the codes row by row, each as four bytes, little-endian."""
    return zlib.crc32(codes.astype("<u4").tobytes())
