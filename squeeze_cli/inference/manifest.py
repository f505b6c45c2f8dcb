"""A folder of shards and its manifest: what is in it, and how far it has come.

manifest.json is written after every shard: a stopped extraction goes on behind the last one. It
says `complete` when all is there. docs/codes-format.md has the fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.files import replacing, write_text_atomically

MANIFEST_NAME = "manifest.json"
FORMAT = "squeeze-embeddings"
VERSION = 1
_IN_WORDS = {
    "run_digest": "training of the run", "images_digest": "images", "source": "source",
}  # fmt: skip
# What is written here, whole or as `replacing` begins it.
_SHARD = r"(codes|quantized|features)-\d{5,}\.safetensors"
_OWN = re.compile(rf"{_SHARD}|\.({_SHARD}|manifest\.json)\..+\.part")


class _DamagedManifestError(SqueezeError):
    """A manifest that may be ours, and cannot be read."""


class ShardedOutput:
    """Writes shards into a folder and keeps its manifest.

    Args:
        folder: made if need be.
        identity: what must be the same for a stopped output to go on: content, run, source, ...
        overwrite: start anew, whatever is there.

    Raises UsageError where the folder holds another output, or files of somebody else.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], *, overwrite: bool) -> None:
        self.folder = folder
        self._identity = {"format": FORMAT, "version": VERSION, **identity}
        self.shards: list[dict[str, Any]] = []
        self.complete = False
        self._overwrite = overwrite
        if not (folder / MANIFEST_NAME).exists():
            if any(not _OWN.fullmatch(path.name) for path in _listed(folder)):
                raise UsageError(f"{folder} holds other files: choose another --out.")
        elif not overwrite:
            self._take_up(_read(folder))
        else:
            with suppress(_DamagedManifestError):  # replaced like any; somebody else's is not
                _read(folder)
        for part in _listed(folder):  # of one that was killed
            if part.suffix == ".part" and _OWN.fullmatch(part.name):
                part.unlink(missing_ok=True)

    @property
    def images(self) -> int:
        """How many images the shards hold."""
        return sum(len(shard["names"]) for shard in self.shards)

    @property
    def shard_bytes(self) -> int:
        """Bytes of all shards together, as the files are."""
        return sum(shard["bytes"] for shard in self.shards)

    def add(
        self, names: Sequence[str], write: Callable[[Path], object], sums: dict[str, float]
    ) -> None:
        """Write the next shard by `write(path)`; `sums` are kept with it, to be added up."""
        self._clear()
        name = f"{self._identity['content']}-{len(self.shards):05d}.safetensors"
        path = self.folder / name
        with replacing(path) as temporary:
            write(temporary)
        self.shards.append(
            {"file": name, "bytes": path.stat().st_size, "blake2b": _digest(path),
             "names": list(names), "sums": sums}
        )  # fmt: skip
        self._write()

    def finish(self) -> None:
        """Say that all is there."""
        self._clear()
        self.complete = True
        self._write()

    def total(self, name: str) -> float:
        """A sum over all shards."""
        return float(sum(shard["sums"].get(name, 0.0) for shard in self.shards))

    def _clear(self) -> None:
        """Remove what is replaced: not before there is something in its place."""
        if self._overwrite:
            (self.folder / MANIFEST_NAME).unlink(missing_ok=True)
            for path in _listed(self.folder):
                if _OWN.fullmatch(path.name):
                    path.unlink()
        self._overwrite = False

    def _take_up(self, found: dict[str, Any]) -> None:
        differing = [key for key, value in self._identity.items() if found.get(key) != value]
        if differing:
            what = " and ".join(_IN_WORDS.get(key, key) for key in differing)
            raise UsageError(
                f"{self.folder} holds another output (with other {what}): choose another --out, or "
                "--overwrite it."
            )
        for shard in found["shards"]:
            path = self.folder / shard["file"]
            if not path.exists() or _digest(path) != shard["blake2b"]:
                raise SqueezeError(f"{path} is missing or damaged: --overwrite makes all anew.")
        self.shards, self.complete = found["shards"], bool(found.get("complete"))

    def _write(self) -> None:
        manifest = {
            **self._identity, "complete": self.complete, "images": self.images,
            "bytes": self.shard_bytes, "shards": self.shards,
        }  # fmt: skip
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        write_text_atomically(self.folder / MANIFEST_NAME, text + "\n")


def _digest(path: Path) -> str:
    with path.open("rb") as file:  # by pieces: a shard may be large
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in `folder`; SqueezeError where there is none, or an unfinished one."""
    if not (folder / MANIFEST_NAME).exists():
        raise SqueezeError(
            f"{folder} holds no {MANIFEST_NAME}: give a codes file, or a folder that `squeeze "
            "extract-embeddings` wrote."
        )
    found = _read(folder)
    if not found.get("complete"):
        raise SqueezeError(f"{folder} is not complete: run the same extraction again to go on.")
    return found


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _read(folder: Path) -> dict[str, Any]:
    """The manifest in `folder`, of a whole output or not."""
    path = folder / MANIFEST_NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise UsageError(f"{path} is another program's: choose another folder.")
        if int(found["version"]) > VERSION:
            raise SqueezeError(f"{path} is of a newer version: update squeeze.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _DamagedManifestError(
            f"{path} cannot be read ({error}): --overwrite makes it anew."
        ) from None
    return found
