"""A shard: states and masks of some images in one safetensors file, with a CRC-32 for each image.

states  [n, *state_shape]  float16 or float32; maps are channels-last
masks   [n, H, W]          uint8
metadata: format, rows (JSON list of the samples' digests), crc32 (JSON list)
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.files import replacing

FORMAT = "1"
FLOAT16_LIMIT = 60000.0
_DTYPES = {"F16": "<f2", "F32": "<f4"}


class DamagedShardError(Exception):
    """A shard's file is truncated, changed or of another format; its rows are computed again."""


@dataclass(frozen=True)
class Shard:
    """An open shard, whose arrays are memory maps."""

    path: Path
    digests: tuple[str, ...]
    crc32: tuple[int, ...]
    states: NDArray[np.float16 | np.float32]
    masks: NDArray[np.uint8]

    def check_row(self, row: int) -> None:
        """Raise DamagedShardError unless the row's bytes are those that were written."""
        if _row_crc32(self.states[row], self.masks[row]) != self.crc32[row]:
            raise DamagedShardError(f"{self.path.name}: row {row} is damaged")


def write_shard(
    path: Path, digests: Sequence[str], states: NDArray[np.float32], masks: NDArray[np.uint8]
) -> None:
    """Write a shard atomically; float16 if all values are finite and within its range.

    The relative error of a float16 entry is at most 2^-11 (0.05 %).
    """
    from safetensors.numpy import save_file

    # The comparison is false if there are NaNs.
    dtype = np.float16 if np.abs(states).max(initial=0) < FLOAT16_LIMIT else np.float32
    stored = np.ascontiguousarray(states, dtype=dtype)
    crcs = [_row_crc32(s, m) for s, m in zip(stored, masks, strict=True)]
    metadata = {"format": FORMAT, "rows": json.dumps(list(digests)), "crc32": json.dumps(crcs)}
    with replacing(path) as temporary:
        tensors = {"states": stored, "masks": np.ascontiguousarray(masks)}
        save_file(tensors, temporary, metadata=metadata)


def open_shard(path: Path) -> Shard:
    """Map a shard into memory; raises DamagedShardError if it is not whole, OSError if it cannot be
    opened now."""
    from safetensors import SafetensorError, safe_open

    try:
        # One map for both arrays, because each map holds a file open.
        content: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            states, masks = file.get_slice("states"), file.get_slice("masks")
            shape, mask_shape = states.get_shape(), masks.get_shape()
            dtype = np.dtype(_DTYPES[states.get_dtype()])
        if metadata["format"] != FORMAT:
            raise DamagedShardError(f"{path.name}: format {metadata['format']}")
        # The library has checked that the tensors fill the file to its end.
        masks_at = len(content) - prod(mask_shape)
        states_at = masks_at - prod(shape) * dtype.itemsize
        shard = Shard(
            path,
            tuple(json.loads(metadata["rows"])),
            tuple(json.loads(metadata["crc32"])),
            content[states_at:masks_at].view(dtype).reshape(shape),
            content[masks_at:].reshape(mask_shape),
        )
    except (SafetensorError, FileNotFoundError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, FileNotFoundError) and path.exists():
            raise OSError("too many open files") from None  # as the library reports it
        raise DamagedShardError(f"{path.name}: {error}") from None
    if not len(shard.digests) == len(shard.crc32) == len(shard.states) == len(shard.masks):
        raise DamagedShardError(f"{path.name}: lengths differ")
    return shard


def _row_crc32(state: NDArray[np.float16 | np.float32], mask: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(mask).data, zlib.crc32(np.ascontiguousarray(state).data))
