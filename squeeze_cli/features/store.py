"""The feature store on disk: a folder for each way of computing states, with shards of images.

    cache_dir/features/KEY/
      space.json               the fields of the key
      RANDOM.safetensors       shards; a reader takes the union of all that are whole

KEY is a digest of all that decides a state besides the image, which is found by a digest of its
bytes: so no state can be stale. Shards are written whole or not at all and never changed, so that
several processes can fill a store at once, and one that is killed leaves what it had finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import KeysView, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.shards import DamagedShardError, Shard, open_shard, write_shard
from squeeze_cli.files import write_text_atomically

if TYPE_CHECKING:
    from squeeze_cli.backbones.base import FrozenBackbone
    from squeeze_cli.data.transforms import Preprocessing

DESCRIPTION_NAME = "space.json"
SHARD_PATTERN = "*.safetensors"
# A part file of this age was left by a process that was killed.
STALE_PART_S = 3600.0


@dataclass(frozen=True)
class StoreKey:
    """Everything that decides a state besides the image's own bytes."""

    backbone: str
    weights_digest: str
    layer: str
    preprocessing: str
    precision: str

    @classmethod
    def of(
        cls, backbone: FrozenBackbone, preprocessing: Preprocessing, layer: str, precision: str
    ) -> Self:
        """Return the key for the states of `layer`, which is `features` or `trunk`."""
        return cls(backbone.name, backbone.weights.digest, layer, preprocessing.key(), precision)

    def digest(self) -> str:
        """Short hex digest, which names the folder."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Row:
    """The place of a sample's state."""

    shard: Shard
    number: int


class FeatureStore:
    """The rows of one key; `damage` has the reasons why shards were removed, to be reported."""

    def __init__(self, cache_dir: Path, key: StoreKey) -> None:
        self.folder = features_folder(cache_dir) / key.digest()
        self.key = key
        self.damage: list[str] = []
        self._rows: dict[str, Row] = {}
        self.refresh()

    def refresh(self) -> None:
        """Open shards that are new; damaged ones are removed and noted in `damage`."""
        for part in self.folder.glob(".*.part"):
            with contextlib.suppress(OSError):  # it was renamed meanwhile, or cannot be removed
                if time.time() - part.stat().st_mtime > STALE_PART_S:
                    part.unlink()
        opened = {row.shard.path for row in self._rows.values()}
        for path in sorted(set(self.folder.glob(SHARD_PATTERN)) - opened):
            try:
                shard = open_shard(path)
            except DamagedShardError as error:
                self._discard(path, str(error))
                continue
            except OSError as error:  # with too many open files, for example; it may be whole
                raise SqueezeError(
                    f"{path} cannot be read ({error.strerror or error}): fix that (`ulimit -n` for "
                    "open files), take another --cache-dir, or --no-cache."
                ) from None
            for number, digest in enumerate(shard.digests):
                self._rows.setdefault(digest, Row(shard, number))

    def mark_used(self) -> None:
        """Note the time for `squeeze cache ls`: a run has just used these features."""
        with contextlib.suppress(OSError):  # a read-only store serves as well
            os.utime(self.folder / DESCRIPTION_NAME)

    def missing(self, digests: Sequence[str]) -> list[int]:
        """Return the positions in `digests` that have no row yet."""
        return [i for i, digest in enumerate(digests) if digest not in self._rows]

    @property
    def digests(self) -> KeysView[str]:
        """Digests of all samples that have a row, and so were decoded before."""
        return self._rows.keys()

    def row(self, digest: str) -> Row:
        """Return the row of the sample with this digest; raises KeyError if there is none."""
        return self._rows[digest]

    def add(
        self, digests: Sequence[str], states: NDArray[np.float32], masks: NDArray[np.uint8]
    ) -> None:
        """Write rows as a new shard."""
        described = self.folder / DESCRIPTION_NAME
        if not described.exists():
            write_text_atomically(described, json.dumps(asdict(self.key), indent=2) + "\n")
        write_shard(self.folder / f"{uuid.uuid4().hex}.safetensors", digests, states, masks)

    def discard(self, shard: Shard, reason: str) -> None:
        """Remove a damaged shard; its rows are missing from then on."""
        self._rows = {d: row for d, row in self._rows.items() if row.shard.path != shard.path}
        self._discard(shard.path, reason)

    def _discard(self, path: Path, reason: str) -> None:
        with contextlib.suppress(OSError):  # a read-only store serves as well
            path.unlink(missing_ok=True)
        self.damage.append(reason)


def features_folder(cache_dir: Path) -> Path:
    """Return the folder of all stores below the cache folder."""
    return cache_dir / "features"


def default_cache_dir() -> Path:
    """Return the platform's cache folder for squeeze."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("squeeze", appauthor=False))


def check_free_space(cache_dir: Path, needed_bytes: int) -> None:
    """Raise SqueezeError unless the disk has room for `needed_bytes` and a tenth more."""
    place = next(folder for folder in (cache_dir, *cache_dir.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed_bytes * 1.1:
        raise SqueezeError(
            f"The feature store needs {needed_bytes / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB "
            "free: take another --cache-dir, `squeeze cache clear`, or --no-cache."
        )
