"""Reading of codes files of version 1, which squeeze no longer writes.

They are safetensors files; the appendix of docs/codes-format.md describes them.
"""

import zlib
from math import prod
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open

from squeeze_cli.codec.index import (
    MOST_NAME_BYTES,
    CodesHeader,
    CodesIndex,
    inflate,
    restore_names,
)
from squeeze_cli.errors import DamagedCodesError

_LIST = TypeAdapter(list[object])


def read_index_v1(path: Path) -> CodesIndex:
    """Read all but the payload, in which each image is a block of its own.

    Raises DamagedCodesError if the file is damaged or of another format.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping
            known = {"crc32": "U32", "names": "U8", "payload": "U8"}
            if types not in [{**known, "lengths": kind} for kind in ("U8", "U16", "U32")]:
                raise DamagedCodesError("its tensors are not those of a codes file")
            stored, lengths, names = map(file.get_tensor, ("crc32", "lengths", "names"))
            payload_bytes = prod(file.get_slice("payload").get_shape())
    except SafetensorError:
        raise DamagedCodesError("it is truncated, changed or longer than it says") from None
    if (metadata.get("format"), metadata.get("version")) != ("squeeze-codes", "1"):
        raise DamagedCodesError("its format is not squeeze-codes, version 1")
    # The library has checked that the tensors fill the file to its end.
    begin = path.stat().st_size - payload_bytes
    with path.open("rb") as raw:
        head = raw.read(begin)
    index = lengths.tobytes() + names.tobytes()
    checked = head[: begin - len(index) - 4] + bytes(4) + index
    if zlib.crc32(checked).to_bytes(4, "little") != stored.tobytes():
        raise DamagedCodesError("its CRC-32 differs")
    if lengths.ndim != 1 or sum(lengths.tolist()) != payload_bytes:
        raise DamagedCodesError("the lengths do not add up to the payload")
    try:
        header = CodesHeader.model_validate(
            {
                **{name: metadata[name] for name in ("quantizer", "coding", "run")},
                **{name: _LIST.validate_json(metadata[name]) for name in ("code_sizes", "grid")},
                "prior": metadata.get("prior", ""),
                "images_per_block": 1,
                "names": _decode_names(inflate(names.tobytes()), len(lengths)),
            }
        )
        read = restore_names(header.names)
    except (ValueError, KeyError):  # pydantic's ValidationError is a ValueError
        raise DamagedCodesError("its metadata or names are incomplete or invalid") from None
    return CodesIndex(header, read, lengths.tolist(), [0] * len(lengths), begin)


def _decode_names(coded: bytes, count: int) -> list[str]:
    """Decode the names; each begins with the number of bytes that it shares with the previous one."""
    names: list[bytes] = []
    begin = size = 0
    while begin < len(coded) and len(names) <= count and size <= MOST_NAME_BYTES:
        previous, end = names[-1] if names else b"", coded.find(b"\0", begin + 1)
        if end < 0 or coded[begin] > len(previous):
            raise ValueError("the names are cut off")
        names.append(previous[: coded[begin]] + coded[begin + 1 : end])
        begin = end + 1
        size += len(names[-1])
    if len(names) != count or begin != len(coded):
        raise ValueError(f"{len(names)} names for {count} images")
    return [name.decode() for name in names]
