"""Writing of decoded features for other programs, as one .npy or as .parquet files.

A folder holds the files and `_decoded.json`, which identifies the codes. Each file is written
atomically, so a stopped decoding continues with the first missing file.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.files import (
    LOCK_NAME,
    read_json,
    remove_parts,
    write_atomically,
    written_atomically,
)
from squeeze_cli.inference.codes_folder import CodesFolder

Form = Literal["safetensors", "npy", "parquet"]
DType = Literal["float16", "float32"]
# Arrow and pandas ignore names with this prefix when they open a folder.
RECORD_NAME = "_decoded.json"
NAMES_NAME = "names.txt"
# Bytes of float32 features that are decoded at once, and make a row group.
BATCH_BYTES = 2**25
_OWN = re.compile(rf"{RECORD_NAME}|{NAMES_NAME}|features\.npy|features-\d{{5,}}\.parquet")
_IN_NO_LINE = re.compile("[\n\r\0\ufeff]")

Features = NDArray[np.floating]
# Function that writes the images at these positions to a file, and yields their number batch by batch.
Write = Callable[[BinaryIO, range], Iterator[int]]


class DecodedRecord(BaseModel, extra="forbid"):
    """Content of `_decoded.json`: digests of the run and of the codes, and the type of the features."""

    format: Literal["squeeze-decoded"] = "squeeze-decoded"
    run: str
    codes: str
    dtype: DType


def decoded_batches(
    codes: CodesFolder, images: range, most: int, dtype: DType
) -> Iterator[tuple[Sequence[str], Features]]:
    """Yield names and features `[n, C, h, w]` of images at these positions, at most `most` at once.

    Raises SqueezeError, which names the image, for a value that the type does not hold.
    """
    for begin in range(images.start, images.stop, most):
        batch = range(begin, min(begin + most, images.stop))
        names = codes.names[batch.start : batch.stop]
        features = codes.run.decoded(codes.read(batch)).numpy()
        if dtype == "float16":
            largest = np.abs(features).reshape(len(features), -1).max(axis=1, initial=0)
            if (row := int(largest.argmax())) < len(names) and largest[row] > np.finfo(dtype).max:
                raise SqueezeError(
                    f"The features of {names[row]} reach {largest[row]:.3g}, more than float16 holds: "
                    "use --dtype float32."
                )
        yield names, features.astype(dtype, copy=False)


def write_npy(
    out: Path, record: DecodedRecord, codes: CodesFolder, overwrite: bool
) -> Iterator[int]:
    """Write `features.npy` `[n, h, w, C]` of n images, and `names.txt` with a name on each line.

    Yields the number of images in each batch. Raises as `_write` does, and SqueezeError for a name that
    does not fit a line.
    """
    if odd := [name for name in codes.names if _IN_NO_LINE.search(name)]:
        raise SqueezeError(
            f"The name {odd[0]!r} does not fit a line of {NAMES_NAME}: use --as parquet, or extract the "
            "image under another name."
        )
    shape, most = _map_shape(codes)

    def write(file: BinaryIO, images: range) -> Iterator[int]:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(record.dtype)), "fortran_order": False,
            "shape": (len(images), *shape),
        }  # fmt: skip
        # A memory map would not do: on a full disk the system would kill the process.
        np.lib.format.write_array_header_1_0(file, header)
        for names, features in decoded_batches(codes, images, most, record.dtype):
            file.write(features.transpose(0, 2, 3, 1).tobytes())
            yield len(names)

    listed = "".join(f"{name}\n" for name in codes.names)
    return _write(out, record, {"features.npy": range(len(codes))}, write, overwrite, listed)


def write_parquet(
    out: Path, record: DecodedRecord, codes: CodesFolder, overwrite: bool
) -> Iterator[int]:
    """Write a .parquet file per codes file: a row per image, with `name`, `shape` and `features`.

    `shape` is the shape `[h, w, C]` of a feature map, and `features` its flattened values, a list of
    fixed size. A batch is a row group. Yields the number of images in each batch. Raises as `_write`
    does.
    """
    pyarrow, parquet = import_pyarrow()
    shape, most = _map_shape(codes)
    value = {"float16": pyarrow.float16(), "float32": pyarrow.float32()}[record.dtype]
    fields = [
        ("name", pyarrow.string()), ("shape", pyarrow.list_(pyarrow.int32(), len(shape))),
        ("features", pyarrow.list_(value, prod(shape))),
    ]  # fmt: skip
    schema = pyarrow.schema(fields)

    def write(file: BinaryIO, images: range) -> Iterator[int]:
        # zstd finds the equal vectors of equal codes; a dictionary of single values would not help.
        options = {"compression": "zstd", "use_dictionary": False}
        with parquet.ParquetWriter(file, schema, **options) as writer:
            for names, features in decoded_batches(codes, images, most, record.dtype):
                values = list(features.transpose(0, 2, 3, 1).reshape(len(names), -1))
                columns = {"name": names, "shape": [shape] * len(names), "features": values}
                writer.write_table(pyarrow.table(columns, schema=schema))
                yield len(names)

    parts = {
        f"features-{number:05d}.parquet": range(*bounds)
        for number, bounds in enumerate(pairwise(codes.begins.tolist()))
    }
    return _write(out, record, parts, write, overwrite)


def _map_shape(codes: CodesFolder) -> tuple[tuple[int, ...], int]:
    """Return the shape `[h, w, C]` of a feature map, and how many maps are decoded at once."""
    channels, rows, columns = codes.run.decoded(codes.read([0])).shape[1:]
    most = max(1, BATCH_BYTES // (4 * channels * rows * columns))
    return (rows, columns, channels), most


def import_pyarrow() -> tuple[ModuleType, ModuleType]:
    """Return the modules pyarrow and pyarrow.parquet; raises UsageError if they are missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UsageError(
            "pyarrow is missing: `pip install squeeze-cli[parquet]`, or --as npy."
        ) from None
    return pyarrow, pyarrow.parquet


def _write(
    out: Path, record: DecodedRecord, parts: Mapping[str, range], write: Write, overwrite: bool,
    listed: str | None = None,
) -> Iterator[int]:  # fmt: skip
    """Write a file per part, except those that a stopped decoding of the same codes has written.

    With `overwrite` old files are removed when the first new one is complete. `listed` is the content of
    names.txt. Raises UsageError if `out` holds other files, other features or all of these features,
    and SqueezeError if a file cannot be written.
    """
    remove_parts([out])
    there = {path.name for path in out.glob("*")} - {LOCK_NAME}
    files = there - {RECORD_NAME, NAMES_NAME}
    found = _read_record(out / RECORD_NAME)
    if there and (found is None or not all(map(_OWN.fullmatch, there))):
        raise UsageError(f"{out} holds other files: choose another --out.")
    if files and not overwrite:
        if found != record or not files <= set(parts):
            raise UsageError(
                f"{out} holds other features: choose another --out, or --overwrite them."
            )
        if files == set(parts):
            raise UsageError(f"{out} holds decoded features already: --overwrite replaces them.")
    done = set() if overwrite else files
    for name, images in parts.items():
        if name not in done:
            with written_atomically(out / name) as file:
                yield from write(file, images)
                if not done:  # the first new file is complete
                    for old in files | {NAMES_NAME}:
                        (out / old).unlink(missing_ok=True)
                    write_atomically(out / RECORD_NAME, record.model_dump_json() + "\n")
                    if listed is not None:
                        write_atomically(out / NAMES_NAME, listed)
            done |= {name}
        else:
            yield len(images)


def _read_record(path: Path) -> DecodedRecord | None:
    """Return the record, or None if the file is missing or not squeeze's own."""
    try:
        return DecodedRecord.model_validate(read_json(path))
    except (OSError, ValueError):
        return None
