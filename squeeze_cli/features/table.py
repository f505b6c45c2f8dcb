"""States of a list of samples, ready for training: in memory where they fit, else memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from squeeze_cli.data.datamodule import Item
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.shards import DamagedShardError
from squeeze_cli.features.store import FeatureStore, Row

# Share of the free memory that the states of all splits together may take.
MEMORY_SHARE = 0.5


class StateDataset(Dataset[Item]):
    """Stored states and masks by position.

    `dataset[i]` gives the state as stored (float16 or float32, maps `[h, w, C]`), the mask
    `[H, W]` uint8 and i itself.

    Raises (when indexed, memory-mapped):
        SqueezeError: the row was damaged since the store was opened.
    """

    def __init__(self, rows: Sequence[Row], in_memory: bool) -> None:
        self._rows = list(rows)
        self._checked: set[int] = set()
        self._memory = [_read(row) for row in rows] if in_memory else None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Item:
        if self._memory is not None:
            return *self._memory[position], position
        row = self._rows[position]
        if position not in self._checked:
            try:
                row.shard.check_row(row.number)
            except DamagedShardError as error:
                row.shard.path.unlink(missing_ok=True)
                raise SqueezeError(
                    f"The feature store was damaged ({error}); the damaged part is removed: "
                    "run the same command again."
                ) from None
            self._checked.add(position)
        return *_read(row), position


def _read(row: Row) -> tuple[Tensor, Tensor]:
    """A row's state and mask in memory of their own."""
    state, mask = row.shard.states[row.number], row.shard.masks[row.number]
    return torch.from_numpy(np.array(state)), torch.from_numpy(np.array(mask))


def row_bytes(row: Row) -> int:
    """Bytes of a sample's state and mask."""
    return int(row.shard.states[0].nbytes + row.shard.masks[0].nbytes)


def fits_in_memory(total_bytes: int) -> bool:
    """Whether `total_bytes` may be held in memory, by what is free now."""
    import psutil

    return bool(total_bytes < MEMORY_SHARE * psutil.virtual_memory().available)


def check_rows(store: FeatureStore, digests: Sequence[str]) -> None:
    """Read every row once and compare its CRC; damaged shards leave the store."""
    for digest in dict.fromkeys(digests):
        if store.missing([digest]):  # its shard has just left
            continue
        row = store.row(digest)
        try:
            row.shard.check_row(row.number)
        except DamagedShardError as error:
            store.discard(row.shard, str(error))
