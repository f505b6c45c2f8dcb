"""Arrays in .npy, .npz and safetensors files, which are opened without reading their values."""

import re
import struct
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from tokenize import TokenError
from typing import Literal, Protocol
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from squeeze_cli.errors import SqueezeError

TYPES = frozenset({"float16", "float32", "float64", "F16", "BF16", "F32", "F64"})
# In a file of several arrays, the array with one of these names is read.
ARRAY_NAMES = ("features", "embeddings")
FIX = "store it again with numpy.save or safetensors"
# Exceptions of NumPy and zipfile for damaged files, and for files of other programs.
_BROKEN = (
    OSError, ValueError, TypeError, OverflowError, MemoryError, EOFError, BadZipFile, struct.error,
    zlib.error, TokenError,
)  # fmt: skip
# Versions of the header of .npy files for which NumPy has a public reader.
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# NumPy parses headers with Python's `ast`, which raises SystemError in several threads at once
# (https://github.com/python/cpython/issues/106905).
_PARSING = Lock()


class Rows(Protocol):
    """An array of NumPy, or a slice of safetensors."""

    def __getitem__(self, rows: slice, /) -> object:
        """Read rows: an array of NumPy, or a tensor."""


Opened = tuple[tuple[int, ...], str, Rows]  # shape, and name of the type


@dataclass(frozen=True, eq=False)
class FeatureArray:
    """An array in a file; only the rows that are read take memory, except in a compressed .npz file."""

    path: Path
    shape: tuple[int, ...]
    values: Rows

    def read(self, rows: slice) -> Tensor:
        """Return rows as float32."""
        part = self.values[rows]
        if isinstance(part, Tensor):
            return part.float()
        with np.errstate(over="ignore"):  # `check_features` reports infinite values
            return torch.from_numpy(np.array(part, dtype=np.float32, order="C"))


def open_array(path: Path, dimensions: Collection[int]) -> FeatureArray:
    """Open the array in a file, without reading its values.

    Raises SqueezeError for a damaged file, for values of another type than float16, bfloat16, float32
    or float64, and for a number of dimensions that is not in `dimensions`.
    """
    from safetensors import SafetensorError

    opened = {".npz": _map_npz, ".safetensors": _open_safetensors}
    try:
        with np.errstate(over="ignore"):  # NumPy computes the size of a shape before it refuses it
            found = opened.get(path.suffix.lower(), _map_npy)(path)
    except (*_BROKEN, SafetensorError) as error:
        reason = re.sub(" at 0x[0-9a-f]+", "", " ".join(str(error).split()))[:200]
        raise SqueezeError(f"Cannot read the features in {path} ({reason}): {FIX}.") from None
    shape, kind, values = found
    if kind not in TYPES:
        raise SqueezeError(
            f"{path} holds values of type {kind}: convert them to float16, bfloat16 (safetensors) or "
            "float32."
        )
    if len(shape) not in dimensions or 0 in shape:
        forms = "[N, h, w, C] or [N, C]; reshape tokens" if 4 in dimensions else "[h, w, C] or [C]"
        raise SqueezeError(f"{path} holds an array of shape {list(shape)}: features are {forms}.")
    return FeatureArray(path, tuple(shape), values)


def _map_npy(path: Path) -> Opened:
    with _PARSING:
        values = np.lib.format.open_memmap(path, mode="r")
    if path.stat().st_size != values.offset + values.nbytes:
        raise ValueError("it is longer than its header says")
    return values.shape, values.dtype.name, values


def _map_npz(path: Path) -> Opened:
    """Map an uncompressed array; read a compressed one into memory."""
    with ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"the CRC-32 of {damaged} differs")
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("two of its arrays have one name")
        name = _choose_array(path, list(members))
        info = members[name]
        with archive.open(info) as member:
            read_header = HEADERS.get(np.lib.format.read_magic(member))
            with _PARSING:
                shape, fortran_order, dtype = (
                    read_header(member) if read_header else ((), False, None)
                )
            header_bytes = member.tell()
    if dtype is not None and info.file_size != header_bytes + prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has another size than its header says")
    if dtype is not None and info.compress_type == ZIP_STORED and not dtype.hasobject:
        with path.open("rb") as file:
            file.seek(info.header_offset + 26)  # lengths of the name and of the extra field
            file.seek(sum(struct.unpack("<HH", file.read(4))), 1)
            begin = file.tell() + header_bytes
        order: Literal["F", "C"] = "F" if fortran_order else "C"
        return shape, dtype.name, np.memmap(path, dtype, "r", begin, shape, order)
    with _PARSING, np.load(path) as arrays:
        values = arrays[name]
    return values.shape, values.dtype.name, values


def _open_safetensors(path: Path) -> Opened:
    from safetensors import safe_open

    path.open("rb").close()  # safetensors reports a file without permission as missing
    with safe_open(path, framework="pt") as file:
        values = file.get_slice(_choose_array(path, list(file.keys())))
    return tuple(values.get_shape()), values.get_dtype(), values


def _choose_array(path: Path, names: Sequence[str]) -> str:
    named = [name for name in names if name in ARRAY_NAMES] or names
    if len(named) != 1:
        listed = ", ".join(sorted(names)[:5])
        raise SqueezeError(
            f"{path} holds {len(names)} arrays ({listed}): name one of them `features`, or store it "
            "alone."
        )
    return named[0]
