"""The store on disk: one folder for each way of making states, shards of images inside.

    cache_dir/features/KEY/
      space.json               what the key stands for
      RANDOM.safetensors       shards; a reader takes the union of all that are whole

KEY is a digest of all that decides a state besides the image: the backbone's weights, the layer,
the preprocessing and the precision. A row is found by the digest of its image's and trimap's
bytes. So nothing stale can be met: whatever changes, changes a digest. Shards are written whole or
not at all and never changed, so that two processes can fill a store at once (at worst a row is
there twice) and a killed one leaves what it had finished.
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
    from squeeze_cli.backbones.frozen import FrozenBackbone
    from squeeze_cli.data.transforms import Preprocessing

DESCRIPTION_NAME = "space.json"
SHARD_PATTERN = "*.safetensors"
# A part file this old was left by a killed process.
STALE_PART_S = 3600.0


@dataclass(frozen=True)
class StoreKey:
    """All that decides a state besides the image's own bytes."""

    backbone: str
    weights_digest: str
    layer: str
    preprocessing: str
    precision: str

    @classmethod
    def of(
        cls, backbone: FrozenBackbone, preprocessing: Preprocessing, layer: str, precision: str
    ) -> Self:
        """The key of the states of `layer`, `features` or `trunk`; hashes the weights' file."""
        return cls(backbone.name, backbone.weights.digest, layer, preprocessing.key(), precision)

    def digest(self) -> str:
        """Short hex digest: the folder's name."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Row:
    """Where a sample's state is."""

    shard: Shard
    number: int


class FeatureStore:
    """The rows of one key.

    `damage` collects what was found damaged and removed, for the caller to report.
    """

    def __init__(self, cache_dir: Path, key: StoreKey) -> None:
        self.folder = features_folder(cache_dir) / key.digest()
        self.key = key
        self.damage: list[str] = []
        self._rows: dict[str, Row] = {}
        self._opened: set[Path] = set()
        self.refresh()

    def refresh(self) -> None:
        """Look for shards that were not there before; damaged ones are removed and noted."""
        if not self.folder.is_dir():
            return
        _remove_stale_parts(self.folder)
        for path in sorted(self.folder.glob(SHARD_PATTERN)):
            if path in self._opened:
                continue
            try:
                shard = open_shard(path)
            except DamagedShardError as error:
                self._discard(path, str(error))
                continue
            except OSError as error:  # too many open files, say: the shard may be whole
                raise SqueezeError(
                    f"{path} cannot be read ({error.strerror}): mend that (`ulimit -n` for open "
                    "files), take another --cache-dir, or --no-cache."
                ) from None
            self._opened.add(path)
            for number, digest in enumerate(shard.digests):
                self._rows.setdefault(digest, Row(shard, number))

    def mark_used(self) -> None:
        """Let `squeeze cache ls` know that a run has just used these features."""
        with contextlib.suppress(OSError):  # a read-only store serves as well
            os.utime(self.folder / DESCRIPTION_NAME)

    def missing(self, digests: Sequence[str]) -> list[int]:
        """The positions in `digests` that have no row yet."""
        return [i for i, digest in enumerate(digests) if digest not in self._rows]

    @property
    def digests(self) -> KeysView[str]:
        """Of all samples that have a row: each was decoded once, so that it can be again."""
        return self._rows.keys()

    def row(self, digest: str) -> Row:
        """Where the sample with this digest is; KeyError where it is missing."""
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
        """Remove a shard that turned out damaged; its rows are missing then."""
        self._rows = {d: row for d, row in self._rows.items() if row.shard.path != shard.path}
        self._opened.discard(shard.path)
        self._discard(shard.path, reason)

    def _discard(self, path: Path, reason: str) -> None:
        with contextlib.suppress(OSError):  # a read-only store serves as well
            path.unlink(missing_ok=True)
        self.damage.append(reason)


def features_folder(cache_dir: Path) -> Path:
    """Where stores are, below the cache folder."""
    return cache_dir / "features"


def default_cache_dir() -> Path:
    """The platform's cache folder for squeeze."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("squeeze", appauthor=False))


def check_free_space(cache_dir: Path, needed_bytes: int) -> None:
    """Raise SqueezeError unless the disk has room for `needed_bytes` and a tenth more."""
    place = cache_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed_bytes * 1.1:
        raise SqueezeError(
            f"The feature store needs {needed_bytes / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB "
            "free: take another --cache-dir, `squeeze cache clear`, or --no-cache."
        )


def _remove_stale_parts(folder: Path) -> None:
    for part in folder.glob(".*.part"):
        try:
            if time.time() - part.stat().st_mtime > STALE_PART_S:
                part.unlink()
        except OSError:  # gone by itself, or in a read-only store
            pass
