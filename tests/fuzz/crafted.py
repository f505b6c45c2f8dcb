"""Files of squeeze with other contents than squeeze writes, but with right checksums."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from squeeze_cli.codec.index import DICTIONARY, MAGIC, VERSION, find_blocks

Tensors = dict[str, NDArray[Any]]
TYPES = {"u1": "U8", "u2": "U16", "u4": "U32", "u8": "U64", "i8": "I64", "f4": "F32", "i1": "I8"}


@dataclass
class Parts:
    """A codes file of version 2, taken apart."""

    header: dict[str, Any]
    lengths: list[int]
    blocks: bytes


def take_apart(content: bytes) -> Parts:
    """Return the parts of a codes file that squeeze wrote."""
    begin, end = find_blocks(content)
    index = zlib.decompressobj(-15, zdict=DICTIONARY).decompress(content[begin : end - 4])
    return Parts(*map(json.loads, index.splitlines()), content[end:])


def craft(
    content: bytes, header: dict[str, Any] | None = None, *, lengths: object = None,
    blocks: bytes | None = None, line: bytes | None = None, magic: bytes = MAGIC + bytes([VERSION]),
    dictionary: bytes = DICTIONARY, compressed: bytes | None = None, size: int | None = None,
    crc32: int | None = None,
) -> bytes:  # fmt: skip
    """Return a codes file with other parts; a field of the header that is `...` is removed.

    `line` stands in place of the header, `compressed` in place of all the index, and `size` of its
    size. All CRC-32s are those of what the file holds, but a given `crc32`, and those of the blocks.
    """
    own = take_apart(content)
    fields = {name: v for name, v in {**own.header, **(header or {})}.items() if v is not ...}
    first = json.dumps(fields).encode() if line is None else line
    second = json.dumps(own.lengths if lengths is None else lengths).encode()
    packed = deflate(first + b"\n" + second, dictionary) if compressed is None else compressed
    head = magic + (len(packed) if size is None else size).to_bytes(4, "little") + packed
    checksum = zlib.crc32(head) if crc32 is None else crc32
    return head + checksum.to_bytes(4, "little") + (own.blocks if blocks is None else blocks)


def deflate(content: bytes, dictionary: bytes = DICTIONARY) -> bytes:
    """Return raw deflate of `content`."""
    compressing = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=dictionary)
    return compressing.compress(content) + compressing.flush()


def bomb(size: int) -> bytes:
    """Return an index that inflates to `size` bytes of zeros."""
    compressing = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
    pieces = [compressing.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*pieces, compressing.flush()])


# --- safetensors files: codes files of version 1, priors -------------------------------------------


def parts(content: bytes) -> tuple[dict[str, str], Tensors]:
    """Return the metadata and the tensors of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size])["__metadata__"], load(content)


def craft_v1(content: bytes, metadata: dict[str, str | None], **tensors: Any) -> bytes:
    """Return a codes file of version 1 with some metadata and tensors replaced; None removes them.

    The CRC-32 of its index is that of what it holds, as that of a file that squeeze wrote.
    """
    own_metadata, own = parts(content)
    texts = {k: v for k, v in {**own_metadata, **metadata}.items() if v is not None}
    names = ["crc32", "lengths", "names", *sorted(tensors.keys() - own.keys()), "payload"]
    arrays = {name: tensors.get(name, own.get(name)) for name in names}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    header: dict[str, Any] = {"__metadata__": texts}
    begin = 0
    for name, array in arrays.items():
        end = begin + array.nbytes
        kind = TYPES[array.dtype.str[1:]]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (begin, end)}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    if "crc32" in arrays and "crc32" not in tensors:
        index = b"".join(a.tobytes() for n, a in arrays.items() if n not in ("crc32", "payload"))
        arrays["crc32"] = np.asarray([zlib.crc32(head + bytes(4) + index)], "<u4")
    return head + b"".join(array.tobytes() for array in arrays.values())


def pack_names(*names: str) -> NDArray[np.uint8]:
    """Return the tensor `names`, none of which shares a beginning with the one before."""
    coded = b"".join(b"\0" + name.encode("utf-8", "surrogateescape") + b"\0" for name in names)
    return np.frombuffer(deflate(coded, b""), np.uint8)


def craft_prior(content: bytes, version: str = "1", **tensors: NDArray[Any] | None) -> bytes:
    """Return a prior with some tensors replaced (`q0_bonus` for `0.bonus`), with its right digest."""
    _, own = parts(content)
    changed = {name.replace("_", ".", 1).removeprefix("q"): a for name, a in tensors.items()}
    arrays = {name: a for name, a in {**own, **changed}.items() if a is not None}
    digest = blake2b(digest_size=4)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
    metadata = {"format": "squeeze-prior", "version": version, "digest": digest.hexdigest()}
    return save(arrays, metadata)


def replace_fields(file: Path, **fields: object) -> None:
    """Change fields of a JSON file, named with two underscores for a dot; `...` removes one."""
    content: Any = json.loads(file.read_text())
    for name, value in fields.items():
        *way, last = name.split("__")
        place = content
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    file.write_text(json.dumps(content))
