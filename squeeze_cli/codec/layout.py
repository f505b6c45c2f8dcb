"""The safetensors layout, written by hand: tensors in an order of ours, a header without waste.

https://huggingface.co/docs/safetensors: eight bytes with the header's length, the header as JSON,
the tensors' bytes one after the other. The library's own writer sorts tensors by name; here the
payload comes last, so that a checksum can cover all that lies before it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.errors import DamagedCodesError

LENGTH_BYTES = 8
# Tensors begin at a multiple of this, as the library's own writer has it.
_ALIGNMENT = 8
# The library refuses larger headers too.
_LARGEST_HEADER = 100_000_000
_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Layout:
    """What a header says.

    Attributes:
        metadata: strings by name.
        tensors: for each its type, shape, and the place of its bytes in the file.
        prefix: the file's bytes before the first tensor.
    """

    metadata: Mapping[str, str]
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...], int, int]]
    prefix: bytes


def build_prefix(metadata: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes before the tensors, which follow in the order of `tensors` without a gap."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def read_layout(file: BinaryIO) -> Layout:
    """Read the header of an open file.

    Raises DamagedCodesError unless the file is a safetensors file of the types used here, whole to
    its last byte.
    """
    size = os.fstat(file.fileno()).st_size
    header_bytes = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if size < LENGTH_BYTES or header_bytes > min(size - LENGTH_BYTES, _LARGEST_HEADER):
        raise DamagedCodesError("truncated, or no safetensors file")
    file.seek(0)
    prefix = file.read(LENGTH_BYTES + header_bytes)
    try:
        header = json.loads(prefix[LENGTH_BYTES:])
        metadata = {str(k): str(v) for k, v in header.pop("__metadata__").items()}
        tensors = {str(name): _entry(entry, len(prefix)) for name, entry in header.items()}
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedCodesError("the header is no safetensors header of codes") from None
    if max((end for _, _, _, end in tensors.values()), default=len(prefix)) != size:
        raise DamagedCodesError("truncated, or longer than its header says")
    return Layout(metadata, tensors, prefix)


def payload_bytes(content: bytes) -> int:
    """Bytes of the tensor `payload` in a whole file."""
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    begin, end = json.loads(content[LENGTH_BYTES : LENGTH_BYTES + length])["payload"][
        "data_offsets"
    ]
    return int(end) - int(begin)


def _entry(entry: Any, start: int) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    dtype, shape = _DTYPES[entry["dtype"]], tuple(int(side) for side in entry["shape"])
    begin, end = (int(offset) for offset in entry["data_offsets"])
    if begin < 0 or any(side < 0 for side in shape):
        raise ValueError("negative sizes")
    count = 1
    for side in shape:
        count *= side
    if end - begin != count * dtype.itemsize:
        raise ValueError("sizes that contradict each other")
    return dtype, shape, start + begin, start + end
