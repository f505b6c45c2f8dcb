"""What the feature store holds, and its removal: `squeeze cache`. Reads headers only, no torch."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.features.shards import DamagedShardError, open_shard
from squeeze_cli.features.store import DESCRIPTION_NAME, SHARD_PATTERN, features_folder

_KEY = re.compile(r"[0-9a-f]{20}")


@dataclass(frozen=True)
class Space:
    """The features of one backbone, layer, preprocessing and precision.

    Attributes:
        key: the folder's name, a digest of all that decides a state besides the image.
        backbone: its registry name; None where the description cannot be read.
        layer: `features`, or `trunk` for the state before the last layer.
        precision: `32` or `bf16`.
        image_size_px: side of the preprocessed images; None where there is no whole shard.
        images: different images in whole shards.
        bytes: all files together.
        last_used: when a run last opened it, UTC.
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
    """All spaces below `cache_dir`, the last used first; none where there is no such folder."""
    folder = features_folder(cache_dir)
    if not folder.is_dir():
        return []
    found = [
        _read(path) for path in folder.iterdir() if path.is_dir() and _KEY.fullmatch(path.name)
    ]
    return sorted(found, key=lambda space: (space.last_used, space.key), reverse=True)


def choose_spaces(cache_dir: Path, key: str | None) -> list[Space]:
    """The space whose key begins with `key`, or all of them for None.

    Raises UsageError where no key begins so, or several do.
    """
    spaces = list_spaces(cache_dir)
    if key is None:
        return spaces
    chosen = [space for space in spaces if space.key.startswith(key)]
    if not chosen:
        raise UsageError(f"No features are kept under {key!r}: `squeeze cache ls` shows the keys.")
    if len(chosen) > 1:
        keys = ", ".join(space.key for space in chosen)
        raise UsageError(f"{key!r} begins several keys: give more of one of {keys}.")
    return chosen


def remove_space(cache_dir: Path, space: Space) -> None:
    """Delete a space's folder; a run that reads it keeps what it has opened (not on Windows).

    Raises SqueezeError where the folder cannot be removed.
    """
    try:
        shutil.rmtree(features_folder(cache_dir) / space.key)
    except FileNotFoundError:
        pass  # another process was quicker
    except OSError as error:
        raise SqueezeError(
            f"Cannot remove {error.filename or space.key} ({error.strerror}): end the runs that "
            "use it, then try again."
        ) from None


def _read(folder: Path) -> Space:
    try:
        described = json.loads((folder / DESCRIPTION_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        described = None
    description = described if isinstance(described, dict) else {}
    digests: set[str] = set()
    size_px: int | None = None
    for path in folder.glob(SHARD_PATTERN):
        try:
            shard = open_shard(path)
        except (DamagedShardError, OSError):
            continue  # the next run that uses it reports it and makes it again
        digests.update(shard.digests)
        size_px = shard.masks.shape[1]
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a run is writing here
            files.append(path.stat())
    return Space(
        key=folder.name,
        backbone=description.get("backbone"),
        layer=description.get("layer"),
        precision=description.get("precision"),
        image_size_px=size_px,
        images=len(digests),
        bytes=sum(file.st_size for file in files),
        last_used=datetime.fromtimestamp(
            max((file.st_mtime for file in files), default=folder.stat().st_mtime), UTC
        ),
    )
