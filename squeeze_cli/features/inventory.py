"""List and remove the contents of the feature store, for `squeeze cache`; reads headers only."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.features.shards import DamagedShardError, open_shard
from squeeze_cli.features.store import DESCRIPTION_NAME, SHARD_PATTERN, StoreKey, features_folder

_KEY = re.compile(r"[0-9a-f]{20}")


@dataclass(frozen=True)
class Space:
    """The features of one backbone, layer, preprocessing and precision, in the folder `key`.

    A field is None if the description cannot be read, or if there is no whole shard. `images`
    counts different images in whole shards, `bytes` all files; `last_used` is in UTC.
    """

    key: str
    backbone: str | None
    layer: str | None
    precision: str | None
    image_size_px: int | None
    images: int
    bytes: int
    last_used: datetime


def list_spaces(cache_dir: Path) -> list[Space]:
    """List all spaces below `cache_dir`, the last used first."""
    folders = features_folder(cache_dir).glob("*/")
    found = [_read(folder) for folder in folders if _KEY.fullmatch(folder.name)]
    return sorted(found, key=lambda space: (space.last_used, space.key), reverse=True)


def choose_spaces(cache_dir: Path, key: str | None) -> list[Space]:
    """Return the space whose key begins with `key`, or all spaces for None.

    Raises:
        UsageError: no key begins like this, or several do.
    """
    chosen = [space for space in list_spaces(cache_dir) if space.key.startswith(key or "")]
    if key is not None and not chosen:
        raise UsageError(f"No features are kept under {key!r}: `squeeze cache ls` shows the keys.")
    if key is not None and len(chosen) > 1:
        keys = ", ".join(space.key for space in chosen)
        raise UsageError(f"{key!r} begins several keys: give more of one of {keys}.")
    return chosen


def remove_space(cache_dir: Path, space: Space) -> None:
    """Delete a space's folder; a run that reads it keeps the files that it has open."""
    try:
        shutil.rmtree(features_folder(cache_dir) / space.key)
    except FileNotFoundError:
        pass  # another process has removed it
    except OSError as error:
        raise SqueezeError(
            f"Cannot remove {error.filename or space.key} ({error.strerror}): end the runs that "
            "use it, then try again."
        ) from None


def _read(folder: Path) -> Space:
    described: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        text = (folder / DESCRIPTION_NAME).read_text(encoding="utf-8")
        described = asdict(StoreKey(**json.loads(text)))
    digests: set[str] = set()
    size_px: int | None = None
    for path in folder.glob(SHARD_PATTERN):
        # The next run that uses a damaged shard reports it and computes it again.
        with contextlib.suppress(DamagedShardError, OSError):
            shard = open_shard(path)
            digests.update(shard.digests)
            size_px = shard.masks.shape[1]
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a run renames its files meanwhile
            files.append(path.stat())
    used = max(file.st_mtime for file in files or [folder.stat()])
    return Space(
        key=folder.name,
        backbone=described.get("backbone"),
        layer=described.get("layer"),
        precision=described.get("precision"),
        image_size_px=size_px,
        images=len(digests),
        bytes=sum(file.st_size for file in files),
        last_used=datetime.fromtimestamp(used, UTC),
    )
