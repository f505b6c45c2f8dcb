"""What is made and not yet written: it becomes a shard when it is large enough."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from squeeze_cli.inference.manifest import ShardedOutput

# A shard of embeddings holds so many bytes: small enough to lose little.
EMBEDDING_SHARD_BYTES = 256 * 2**20

WriteShard = Callable[[Path, NDArray[Any], Sequence[str]], object]


class ShardBuffer:
    """Collects parts of an output and writes them by shards.

    Args:
        output: where the shards go.
        write: writes the stacked parts and their names to a path.
        max_images: a shard is full with so many images; None goes by `EMBEDDING_SHARD_BYTES`.
    """

    def __init__(
        self, output: ShardedOutput, write: WriteShard, max_images: int | None = None
    ) -> None:
        self._output = output
        self._write = write
        self._max_images = max_images
        self._names: list[str] = []
        self._parts: list[NDArray[Any]] = []
        self._sums: dict[str, float] = {}

    def add(
        self, names: Sequence[str], part: NDArray[Any], sums: Mapping[str, float] | None = None
    ) -> None:
        """Take a part `[n, ...]` of n images; `sums` are added up and kept with the shard."""
        self._names += names
        self._parts.append(part)
        for name, value in (sums or {}).items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if self._full():
            self.flush()

    def flush(self) -> None:
        """Write what there is, if anything."""
        if not self._names:
            return
        stacked, names = np.concatenate(self._parts), self._names
        self._output.add(names, lambda path: self._write(path, stacked, names), self._sums)
        self._names, self._parts, self._sums = [], [], {}

    def _full(self) -> bool:
        if self._max_images is not None:
            return len(self._names) >= self._max_images
        return sum(part.nbytes for part in self._parts) >= EMBEDDING_SHARD_BYTES


def save_embeddings(path: Path, embeddings_nchw: NDArray[Any], names: Sequence[str]) -> None:
    """A shard of embeddings: tensor `embeddings` `[n, C, h, w]` float32, `names` as metadata."""
    save_file(
        {"embeddings": np.ascontiguousarray(embeddings_nchw, dtype=np.float32)}, path,
        metadata={"names": json.dumps(list(names), ensure_ascii=False)},
    )  # fmt: skip
