"""Shards of the feature store: states of images in a safetensors file, with a CRC-32 per image.

states  [n, *state_shape]  float16 or float32; maps are channels-last
metadata: format, space (the store's key), rows and crc32 (JSON lists), check (checksum of both)
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Json

from squeeze_cli.config.fields import reason_of
from squeeze_cli.files import write_atomically

# Format 1 also held masks, and its digests were of images and masks together.
FORMAT = "2"
FLOAT16_LOW, FLOAT16_HIGH = 0.001, 60000.0  # bounds of a shard's largest entry in float16
ANOTHER_CACHE = "make room there, use another --cache-dir, or --no-cache."

# The stored form of an image's state.
State = NDArray[np.float16 | np.float32]


class _Metadata(BaseModel):
    """Metadata of a shard: digest and CRC-32 of each row."""

    format: Literal["2"]
    space: str | None = None
    rows: Json[tuple[str, ...]]
    crc32: Json[tuple[int, ...]]
    check: str | None = None  # older shards have none


class DamagedShardError(Exception):
    """A shard's file is truncated, changed or in another format; its rows are computed again."""


@dataclass(frozen=True)
class Shard:
    """An open shard; `states` is a slice of safetensors, which outlives its file."""

    path: Path
    digests: tuple[str, ...]
    crc32: tuple[int, ...]
    states: Sequence[State]
    file_bytes: int

    def read(self, row: int) -> State:
        """Return the state of a row; raises DamagedShardError if its bytes changed, or for NaNs."""
        state = self.states[row]
        if zlib.crc32(state.data) != self.crc32[row]:
            raise DamagedShardError(f"{self.path.name}: row {row} is damaged")
        # Older versions stored infinite values and NaNs too, always as float32.
        if state.dtype == np.float32 and not np.isfinite(state).all():
            raise DamagedShardError(f"{self.path.name}: row {row} is not finite")
        return state


def _check(digests: Sequence[str], crcs: Sequence[int]) -> str:
    """Return the checksum of the digests and CRC-32 in the metadata."""
    return f"{zlib.crc32(json.dumps([list(digests), list(crcs)]).encode()):08x}"


def write_shard(path: Path, digests: Sequence[str], states: NDArray[np.float32]) -> None:
    """Write a shard atomically; float16 if all values are finite and the largest allows it: the relative
    error of an entry is at most 2^-11 (0.05 %), and its error at most 3e-8 below 6e-5."""
    from safetensors.numpy import save

    # With NaNs the comparison is false.
    dtype = np.float16 if FLOAT16_LOW < np.abs(states).max(initial=0) < FLOAT16_HIGH else np.float32
    stored = np.ascontiguousarray(states, dtype=dtype)
    crcs = [zlib.crc32(state.data) for state in stored]
    metadata = {
        "format": FORMAT, "space": path.parent.name,
        "rows": json.dumps(list(digests)), "crc32": json.dumps(crcs),
        "check": _check(digests, crcs),
    }  # fmt: skip
    write_atomically(path, save({"states": stored}, metadata), fix=ANOTHER_CACHE)


def open_shard(path: Path) -> Shard:
    """Open a shard; raises DamagedShardError if it is incomplete, OSError if it cannot be opened."""
    from safetensors import SafetensorError, safe_open

    try:
        path.open("rb").close()  # safetensors reports a file without permission as missing
        with safe_open(path, framework="numpy") as file:
            described = _Metadata.model_validate(file.metadata())
            states = file.get_slice("states")
            shard = Shard(path, described.rows, described.crc32, states, path.stat().st_size)
        lengths = {len(shard.digests), len(shard.crc32), *states.get_shape()[:1]}
        if states.get_dtype() not in ("F16", "F32") or len(lengths) != 1:
            raise ValueError("it is of another type, or its lengths differ")
        if described.check not in (None, _check(shard.digests, shard.crc32)):
            raise ValueError("its digests have changed")
        if described.space not in (None, path.parent.name):  # older shards have none
            raise ValueError("it holds other features")
    except (SafetensorError, FileNotFoundError, ValueError) as error:
        raise DamagedShardError(f"{path.name}: {reason_of(error)}") from None
    return shard
