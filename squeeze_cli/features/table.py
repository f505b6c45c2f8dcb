"""States of a list of samples, ready for training: in memory where they fit, else memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from squeeze_cli.data.sampling import EpochBatches
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.extraction import from_rows
from squeeze_cli.features.shards import DamagedShardError
from squeeze_cli.features.store import FeatureStore, Row

# Share of the free memory that the states of all splits together may take.
MEMORY_SHARE = 0.5

StateBatch = tuple[Tensor, Tensor, Tensor]


class StateDataset(Dataset[StateBatch]):
    """States and masks by lists of positions: one gather a batch, no collating.

    `__getitem__([i, ...])` gives (states as the trunk made them, float32; masks `[B, H, W]` uint8;
    positions int64).
    """

    def __init__(self, rows: Sequence[Row], in_memory: bool) -> None:
        self._rows = list(rows)
        self._checked: set[int] = set()
        self._memory: tuple[Tensor, Tensor] | None = None
        if in_memory and rows:
            states = _joined([row.shard.states[row.number] for row in self._rows])
            masks = _joined([row.shard.masks[row.number] for row in self._rows])
            self._memory = torch.from_numpy(states), torch.from_numpy(masks)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, positions: list[int]) -> StateBatch:
        index = torch.tensor(positions)
        if self._memory is None:
            stored, masks = self._read(positions)
            return from_rows(stored.float()), masks, index
        rows, all_masks = self._memory
        # Gathered and widened in one pass over what are the largest maps there are.
        states = torch.empty(len(positions), *rows.shape[1:])
        for state, position in zip(states, positions, strict=True):
            state.copy_(rows[position])
        return from_rows(states), all_masks[index], index

    def _read(self, positions: list[int]) -> tuple[Tensor, Tensor]:
        for position in positions:
            if position not in self._checked:
                row = self._rows[position]
                try:
                    row.shard.check_row(row.number)
                except DamagedShardError as error:
                    row.shard.path.unlink(missing_ok=True)
                    raise SqueezeError(
                        f"The feature store was damaged ({error}); the damaged part is removed: "
                        "run the same command again."
                    ) from None
                self._checked.add(position)
        chosen = [self._rows[position] for position in positions]
        states = np.stack([row.shard.states[row.number] for row in chosen])
        masks = np.stack([row.shard.masks[row.number] for row in chosen])
        return torch.from_numpy(states), torch.from_numpy(masks)


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """`np.stack` on every core: most of its time goes to new pages of memory."""
    joined = np.empty((len(arrays), *arrays[0].shape), np.result_type(*{a.dtype for a in arrays}))
    with ThreadPoolExecutor() as pool:
        list(pool.map(np.copyto, joined, arrays))
    return joined


def row_bytes(row: Row) -> int:
    """Bytes of a sample's state and mask."""
    return int(row.shard.states[0].nbytes + row.shard.masks[0].nbytes)


def fits_in_memory(total_bytes: int) -> bool:
    """Whether `total_bytes` may be held in memory, by what is free now."""
    import psutil

    return bool(total_bytes < MEMORY_SHARE * psutil.virtual_memory().available)


def check_rows(store: FeatureStore, digests: Sequence[str]) -> None:
    """Read every row once and compare its CRC; damaged shards leave the store."""
    rows = [store.row(digest) for digest in dict.fromkeys(digests)]
    with ThreadPoolExecutor() as pool:  # checksums let other threads run
        reasons = list(pool.map(_damage, rows))
    damaged = {r.shard.path: (r.shard, why) for r, why in zip(rows, reasons, strict=True) if why}
    for shard, reason in damaged.values():
        store.discard(shard, reason)


def _damage(row: Row) -> str | None:
    try:
        row.shard.check_row(row.number)
    except DamagedShardError as error:
        return str(error)
    return None


def state_loader(
    dataset: StateDataset, batch_size: int, *, seed: int = 0, shuffle: bool = False
) -> DataLoader[StateBatch]:
    """Batches of states; the dataset gathers them itself, so there is nothing for workers to do."""
    batches = EpochBatches(len(dataset), batch_size, seed=seed, shuffle=shuffle)
    return DataLoader(dataset, batch_size=None, sampler=batches)
