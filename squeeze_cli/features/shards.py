"""A shard: states and masks of some images in one safetensors file, with a CRC-32 for each image.

states  [n, *state_shape]  float16 or float32; maps are channels-last
masks   [n, H, W]          uint8
metadata: format, rows (JSON list of the samples' digests), crc32 (JSON list)
"""

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

# State and mask of an image, as they are stored.
StoredArrays = tuple[NDArray[np.float16 | np.float32], NDArray[np.uint8]]


class DamagedShardError(Exception):
    """A shard's file is truncated, changed or of another format; its rows are computed again."""


@dataclass(frozen=True)
class Shard:
    """An open shard; `states` and `masks` are slices of safetensors, which outlive their file."""

    path: Path
    digests: tuple[str, ...]
    crc32: tuple[int, ...]
    states: Any
    masks: Any
    file_bytes: int

    def read(self, row: int) -> StoredArrays:
        """Return the state and mask of a row; raises DamagedShardError if their bytes changed."""
        state, mask = self.states[row], self.masks[row]
        if _row_crc32(state, mask) != self.crc32[row]:
            raise DamagedShardError(f"{self.path.name}: row {row} is damaged")
        return state, mask


def write_shard(
    path: Path, digests: Sequence[str], states: NDArray[np.float32], masks: NDArray[np.uint8]
) -> None:
    """Write a shard atomically; float16 if all values are finite and within its range.

    The relative error of a float16 entry is at most 2^-11 (0.05 %).
    """
    from safetensors.numpy import save

    # The comparison is false if there are NaNs.
    dtype = np.float16 if np.abs(states).max(initial=0) < FLOAT16_LIMIT else np.float32
    stored = np.ascontiguousarray(states, dtype=dtype)
    tensors = {"states": stored, "masks": np.ascontiguousarray(masks)}
    crcs = [_row_crc32(s, m) for s, m in zip(*tensors.values(), strict=True)]
    metadata = {"format": FORMAT, "rows": json.dumps(list(digests)), "crc32": json.dumps(crcs)}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))


def open_shard(path: Path) -> Shard:
    """Open a shard; raises DamagedShardError if it is not whole, OSError if it cannot be read now."""
    from safetensors import SafetensorError, safe_open

    try:
        path.open("rb").close()  # the library calls a file missing that cannot be opened
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            shard = Shard(
                path,
                tuple(json.loads(metadata["rows"])),
                tuple(json.loads(metadata["crc32"])),
                file.get_slice("states"),
                file.get_slice("masks"),
                path.stat().st_size,
            )
        lengths = {len(shard.digests), len(shard.crc32)}
        lengths |= {array.get_shape()[0] for array in (shard.states, shard.masks)}
        if metadata["format"] != FORMAT or len(lengths) != 1:
            raise ValueError("it is of another format, or its lengths differ")
    except (SafetensorError, FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DamagedShardError(f"{path.name}: {error}") from None
    return shard


def _row_crc32(state: NDArray[np.float16 | np.float32], mask: NDArray[np.uint8]) -> int:
    return zlib.crc32(mask.data, zlib.crc32(state.data))
