"""Lists of names in few bytes: what a name shares with the one before it is not said again."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from squeeze_cli.codec.errors import DamagedCodesError

# Raw deflate: the container has its own checksum.
_RAW_DEFLATE = -15
_LONGEST_PREFIX = 255


def compress_names(names: Sequence[str]) -> bytes:
    """Front-coded names, deflated.

    For each name: one byte, how many of its first bytes (UTF-8) are those of the name before it;
    the other bytes; a zero byte. Raises ValueError for a name with a zero byte, which no file has.
    """
    coded = bytearray()
    previous = b""
    for name in names:
        current = name.encode("utf-8", "surrogateescape")
        if 0 in current:
            raise ValueError(f"the name {name!r} holds a zero byte")
        shared = _shared_prefix(previous, current)
        coded.append(shared)
        coded += current[shared:] + b"\0"
        previous = current
    deflate = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE)
    return deflate.compress(bytes(coded)) + deflate.flush()


def decompress_names(compressed: bytes, count: int) -> tuple[str, ...]:
    """The inverse of `compress_names`; raises DamagedCodesError unless there are `count` names."""
    inflate = zlib.decompressobj(_RAW_DEFLATE)
    try:
        coded = inflate.decompress(compressed) + inflate.flush()
    except zlib.error as error:
        raise DamagedCodesError(f"the names cannot be inflated ({error})") from None
    names: list[str] = []
    previous, begin = b"", 0
    while begin < len(coded):
        end = coded.find(b"\0", begin + 1)
        if end < 0 or coded[begin] > len(previous):
            raise DamagedCodesError("the names are cut off")
        previous = previous[: coded[begin]] + coded[begin + 1 : end]
        names.append(previous.decode("utf-8", "surrogateescape"))
        begin = end + 1
    if len(names) != count or not inflate.eof or inflate.unused_data:
        raise DamagedCodesError(f"there are {len(names)} names for {count} images")
    return tuple(names)


def _shared_prefix(a: bytes, b: bytes) -> int:
    limit = min(len(a), len(b), _LONGEST_PREFIX)
    return next((i for i in range(limit) if a[i] != b[i]), limit)
