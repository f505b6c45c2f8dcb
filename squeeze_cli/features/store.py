"""Feature store on disk: one folder of shards per `StoreKey`.

    cache_dir/features/KEY/
      space.json               the fields of the key
      RANDOM.safetensors       shards; a reader uses the union of all complete ones

KEY is a digest of everything that determines a state besides the image, and states are found by a
digest of the image's bytes, so no state can be stale. Shards are written atomically and never changed,
so several processes can fill a store at once, and a process that is killed leaves complete shards.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, KeysView, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from squeeze_cli.config.fields import short_size
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.features.shards import (
    ANOTHER_CACHE,
    FORMAT,
    DamagedShardError,
    Shard,
    State,
    open_shard,
    write_shard,
)
from squeeze_cli.files import read_json, write_atomically

DESCRIPTION_NAME = "space.json"
SHARD_PATTERN = "*.safetensors"
# An unfinished file of this age was left by a process that was killed.
STALE_PART_S = 3600.0
# Pattern of the size in `Preprocessing.key`, such as square224 or pad480x640.
_SIZE_PATTERN = re.compile(r"[a-z]+(\d+)(?:x(\d+))?-")
_KEY_PATTERN = re.compile(r"[0-9a-f]{20}")


@dataclass(frozen=True)
class StoreKey:
    """Everything that determines a state besides the image's bytes."""

    backbone: str
    weights_digest: str
    layer: str
    preprocessing: str
    precision: str
    fused: bool = True

    def digest(self) -> str:
        """Return the short hex digest that names the folder; it depends on the format of shards too."""
        text = json.dumps(asdict(self) | {"format": FORMAT}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


class FeatureStore:
    """The states of one key by the images' digests; `damage` has the reasons of removed shards."""

    def __init__(self, cache_dir: Path, key: StoreKey) -> None:
        self.folder = features_folder(cache_dir) / key.digest()
        self.key = key
        self.damage: list[str] = []
        self._rows: dict[str, tuple[Shard, int]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Open new shards; damaged ones are removed and recorded in `damage`."""
        for part in self.folder.glob(".*.part"):
            with contextlib.suppress(OSError):  # another process has renamed it, or it is read-only
                if time.time() - part.stat().st_mtime > STALE_PART_S:
                    part.unlink()
        opened = {shard.path for shard, _ in self._rows.values()}
        for path in sorted(set(self.folder.glob(SHARD_PATTERN)) - opened):
            try:
                shard = open_shard(path)
            except DamagedShardError as error:
                self._discard(path, str(error))
                continue
            except OSError as error:  # the shard may be complete, so it is not removed
                raise SqueezeError(
                    f"{path} cannot be read ({error.strerror or error}): fix that (too many open "
                    "files: `ulimit -n`), use another --cache-dir, or --no-cache."
                ) from None
            for number, digest in enumerate(shard.digests):
                self._rows.setdefault(digest, (shard, number))

    @property
    def digests(self) -> KeysView[str]:
        """Digests of all images whose states are stored."""
        return self._rows.keys()

    def stored_bytes(self, digests: Iterable[str]) -> float:
        """Return the size of stored states on disk, with their share of the shards' headers."""
        shards = [self._rows[digest][0] for digest in digests]
        return sum(shard.file_bytes / len(shard.digests) for shard in shards)

    def read(self, digest: str) -> State | None:
        """Return an image's state, float16 or float32, a map as `[h, w, C]`.

        Returns None if it is not stored, or if its shard is damaged, which is then removed.
        """
        if digest not in self._rows:
            return None
        shard, row = self._rows[digest]
        try:
            return shard.read(row)
        except DamagedShardError as error:
            self._discard(shard.path, str(error))
            return None

    def __getitem__(self, digest: str) -> State:
        """Return an image's state as `read` does; raises SqueezeError if it is damaged now."""
        state = self.read(digest)
        if state is None:
            raise SqueezeError(
                f"The feature store was damaged ({self.damage[-1]}); the damaged part is removed: run "
                "the same command again."
            )
        return state

    def add(self, digests: Sequence[str], states: NDArray[np.float32]) -> None:
        """Write states as a new shard."""
        described = self.folder / DESCRIPTION_NAME
        if not described.exists():
            text = json.dumps(asdict(self.key), indent=2) + "\n"
            write_atomically(described, text, fix=ANOTHER_CACHE)
        write_shard(self.folder / f"{uuid.uuid4().hex}.safetensors", digests, states)

    def mark_used(self) -> None:
        """Record the time of this use for `squeeze cache ls`."""
        with contextlib.suppress(OSError):  # the store may be read-only
            os.utime(self.folder / DESCRIPTION_NAME)

    def _discard(self, path: Path, reason: str) -> None:
        """Remove a damaged shard, whose images then count as missing."""
        self._rows = {d: row for d, row in self._rows.items() if row[0].path != path}
        with contextlib.suppress(OSError):  # the store may be read-only
            path.unlink(missing_ok=True)
        self.damage.append(reason)


# States by the digests of images, held in memory or read at each access.
States = dict[str, State] | FeatureStore


def features_folder(cache_dir: Path) -> Path:
    """Return the folder of all stores below the cache folder."""
    return cache_dir / "features"


def default_cache_dir() -> Path:
    """Return the platform's cache folder for squeeze."""
    import platformdirs

    return platformdirs.user_cache_path("squeeze", appauthor=False)


def check_free_space(cache_dir: Path, needed_bytes: float) -> None:
    """Raise SqueezeError unless the disk has room for `needed_bytes` and a tenth more."""
    from rich.filesize import decimal

    place = next(folder for folder in (cache_dir, *cache_dir.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed_bytes * 1.1:
        raise SqueezeError(
            f"The feature store needs {decimal(int(needed_bytes))}, {place} has {decimal(free)} free: "
            "use another --cache-dir, `squeeze cache clear`, or --no-cache."
        )


@dataclass(frozen=True)
class Space:
    """A row of `squeeze cache`: one store; fields of the key are None if `space.json` is damaged.

    `image_size_px` is a side, or height and width. `images` counts different images in complete shards
    (0 for a store of an older version), `bytes` is the size of all files, `last_used` is in UTC.
    """

    key: str
    backbone: str | None
    layer: str | None
    precision: str | None
    image_size_px: int | list[int] | None
    images: int
    bytes: int
    last_used: datetime


def choose_spaces(cache_dir: Path, key: str | None) -> list[Space]:
    """Return the space whose key begins with `key`, or all spaces for None, the last used first.

    Raises UsageError if no key or several keys begin with `key`, or `cache_dir` is a file.
    """
    if cache_dir.exists() and not cache_dir.is_dir():
        raise UsageError(f"{cache_dir} is not a folder: check --cache-dir.")
    folders = [f for f in features_folder(cache_dir).glob("*/") if _KEY_PATTERN.fullmatch(f.name)]
    chosen = [_read_space(folder) for folder in folders if folder.name.startswith(key or "")]
    if key is not None and not chosen:
        raise UsageError(f"No features are kept under {key!r}: `squeeze cache ls` shows the keys.")
    if key is not None and len(chosen) > 1:
        raise UsageError(f"Several keys begin with {key!r}: `squeeze cache ls` lists them.")
    return sorted(chosen, key=lambda space: (space.last_used, space.key), reverse=True)


def remove_space(cache_dir: Path, space: Space) -> None:
    """Delete a space's folder; a run that uses it keeps its open files."""
    try:
        shutil.rmtree(features_folder(cache_dir) / space.key)
    except FileNotFoundError:
        pass  # another process has removed it
    except OSError as error:
        raise SqueezeError(
            f"Cannot remove {error.filename or space.key} ({error.strerror or error}): end the "
            "runs that use it, or remove a link by hand, then try again."
        ) from None


def _read_space(folder: Path) -> Space:
    """Describe the store in a folder from its `space.json` and the headers of its shards."""
    described: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        content = read_json(folder / DESCRIPTION_NAME)
        described = asdict(TypeAdapter(StoreKey).validate_python(content))
    files, shards = [], []
    for path in folder.iterdir():
        # A run may rename files at the same time. A damaged shard is left to the next run.
        with contextlib.suppress(OSError, DamagedShardError):
            files.append(path.stat())
            if path.match(SHARD_PATTERN):
                shards.append(open_shard(path))
    size = _SIZE_PATTERN.match(str(described.get("preprocessing")))
    sides = [int(side) for side in (size.groups() if size else ()) if side]
    used = max(file.st_mtime for file in files or [folder.stat()])
    return Space(
        key=folder.name, backbone=described.get("backbone"), layer=described.get("layer"),
        precision=described.get("precision"), image_size_px=short_size(sides) if sides else None,
        images=len({digest for shard in shards for digest in shard.digests}),
        bytes=sum(file.st_size for file in files), last_used=datetime.fromtimestamp(used, UTC),
    )  # fmt: skip
