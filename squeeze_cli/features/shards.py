"""A shard: states and masks of some images in one safetensors file, with a CRC-32 for each image.

states  [n, *state_shape]  float16 or float32, maps channels-last
masks   [n, H, W]          uint8
metadata: format, rows (JSON list of the samples' digests), crc32 (JSON list)
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.files import replacing

FORMAT = "1"
FLOAT16_LIMIT = 60000.0
_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "U8": np.dtype("u1"),
}


class DamagedShardError(Exception):
    """A shard's file is truncated, changed or of another format; its rows are computed again."""


@dataclass(frozen=True)
class Shard:
    """An open shard; the arrays are memory maps, read only where they are touched."""

    path: Path
    digests: tuple[str, ...]
    crc32: tuple[int, ...]
    states: NDArray[Any]
    masks: NDArray[np.uint8]

    def check_row(self, row: int) -> None:
        """Raise DamagedShardError unless the row's bytes are those that were written."""
        if _row_crc32(self.states[row], self.masks[row]) != self.crc32[row]:
            raise DamagedShardError(f"{self.path.name}: row {row} is damaged")


def write_shard(
    path: Path, digests: Sequence[str], states: NDArray[np.float32], masks: NDArray[np.uint8]
) -> None:
    """Write a shard atomically; float16 where all values are finite and within its range.

    float16 keeps 11 significant bits: a relative error of at most 2^-11 (0.05 %) an entry.
    """
    import torch
    from safetensors.numpy import save_file

    # torch takes a twentieth of NumPy's time to find the extremes and to round.
    given = torch.from_numpy(np.ascontiguousarray(states, dtype=np.float32))
    lowest, highest = (float(extreme) for extreme in given.aminmax())
    fits = lowest > -FLOAT16_LIMIT and highest < FLOAT16_LIMIT  # not where there are NaNs
    stored = (given.half() if fits else given).numpy()
    crcs = [_row_crc32(s, m) for s, m in zip(stored, masks, strict=True)]
    metadata = {"format": FORMAT, "rows": json.dumps(list(digests)), "crc32": json.dumps(crcs)}
    with replacing(path) as temporary:
        tensors = {"states": stored, "masks": np.ascontiguousarray(masks)}
        save_file(tensors, temporary, metadata=metadata)


def open_shard(path: Path) -> Shard:
    """Map a shard; raises DamagedShardError for a file that is not whole, OSError for one that cannot
    be read now."""
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if header_bytes > path.stat().st_size:
                raise DamagedShardError(f"{path.name}: truncated")
            header = json.loads(file.read(header_bytes))
        metadata = header["__metadata__"]
        if metadata["format"] != FORMAT:
            raise DamagedShardError(f"{path.name}: format {metadata['format']}")
        # One map for both: each holds a file open.
        whole: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        shard = Shard(
            path,
            tuple(json.loads(metadata["rows"])),
            tuple(json.loads(metadata["crc32"])),
            _part(whole[8 + header_bytes :], header["states"]),
            _part(whole[8 + header_bytes :], header["masks"]),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DamagedShardError(f"{path.name}: {error}") from None
    if not len(shard.digests) == len(shard.crc32) == len(shard.states) == len(shard.masks):
        raise DamagedShardError(f"{path.name}: lengths differ")
    return shard


def _part(content: NDArray[np.uint8], entry: dict[str, Any]) -> NDArray[Any]:
    begin, end = entry["data_offsets"]
    return content[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])


def _row_crc32(state: NDArray[Any], mask: NDArray[np.uint8]) -> int:
    crc = 0
    for array in (state, mask):
        data: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        crc = zlib.crc32(data, crc)
    return crc
