"""A folder of shards with a manifest: what is in it, and how far the extraction has come.

manifest.json is written after every shard, so that a stopped extraction continues after the last
one. It says `complete` when all is there. docs/codes-format.md describes the fields.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from squeeze_cli.codec.manifest import (
    MANIFEST_NAME,
    SHARD_PATTERN,
    DamagedManifestError,
    Manifest,
    ShardEntry,
    digest,
    read_any_manifest,
)
from squeeze_cli.errors import UsageError
from squeeze_cli.files import LOCK_NAME, PART_PATTERN, write_atomically, write_text_atomically

# Sizes of shards, of codes in images: small enough to lose little when an extraction is stopped.
CODES_PER_SHARD = 8192
EMBEDDING_SHARD_BYTES = 256 * 2**20
# The files written here, finished or not yet renamed; earlier versions named those by the files.
_OWN = re.compile(rf"{SHARD_PATTERN}|{PART_PATTERN}|\.({SHARD_PATTERN}|manifest\.json)\..+\.part")
_PROGRESS = {"version", "complete", "images", "bytes", "shards"}
Array = NDArray[np.generic]


class ShardedOutput:
    """Collects parts of an output, writes them as shards into a folder, and keeps its manifest.

    `manifest` is that of an output without shards; `encode` makes the bytes of a shard of stacked
    parts and their names. What `overwrite` replaces is removed when the first shard takes its place.
    The caller has locked the folder.

    Raises:
        UsageError: The folder holds another output, or files that are not of squeeze.
        SqueezeError: A shard is missing or damaged.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, encode: Callable[[Array, Sequence[str]], bytes], *,
        overwrite: bool,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.manifest = manifest
        self._encode = encode
        self._overwrite = overwrite
        self._names: list[str] = []
        self._parts: list[Array] = []
        self._sums: dict[str, float] = {}
        if not (folder / MANIFEST_NAME).exists():
            others = {path.name for path in folder.glob("*")} - {LOCK_NAME}
            if not all(map(_OWN.fullmatch, others)):
                raise UsageError(f"{folder} holds other files: choose another --out.")
        elif not overwrite:
            self.manifest = _continued(folder, manifest)
        else:
            with suppress(DamagedManifestError):  # another program's manifest is not replaced
                read_any_manifest(folder)
        _remove(folder, ".*.part")  # a killed process left them

    def add(self, names: Sequence[str], part: Array, sums: Mapping[str, float]) -> None:
        """Take a part `[n, ...]` of n named images; `sums` are added up and kept with the shard."""
        self._names += names
        self._parts.append(part)
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if self.manifest.content == "codes":
            full = len(self._names) >= CODES_PER_SHARD
        else:
            full = sum(each.nbytes for each in self._parts) >= EMBEDDING_SHARD_BYTES
        if full:
            self.flush()

    def flush(self) -> None:
        """Write the parts that wait as the next shard, and the manifest, unless nothing changed."""
        manifest, names = self.manifest, self._names
        if not names and not manifest.complete:
            return
        if self._overwrite:  # now there is something to take its place
            (self.folder / MANIFEST_NAME).unlink(missing_ok=True)
            _remove(self.folder, "*")
            self._overwrite = False
        if names:
            ending = "sqz" if manifest.content == "codes" else "safetensors"
            path = self.folder / f"{manifest.content}-{len(manifest.shards):05d}.{ending}"
            write_atomically(path, self._encode(np.concatenate(self._parts), names))
            shard = ShardEntry(
                file=path.name, bytes=path.stat().st_size, blake2b=digest(path), names=names,
                sums=self._sums,
            )  # fmt: skip
            manifest.shards.append(shard)
            manifest.images += len(names)
            manifest.bytes += shard.bytes
            self._names, self._parts, self._sums = [], [], {}
        text = manifest.model_dump_json(indent=1)
        write_text_atomically(self.folder / MANIFEST_NAME, text + "\n")

    def finish(self) -> None:
        """Write what waits and mark the output as complete."""
        self.manifest.complete = True
        self.flush()


def encode_embeddings(embeddings_nchw: Array, names: Sequence[str]) -> bytes:
    """Return a shard: tensor `embeddings` `[n, C, h, w]` float32, with `names` as metadata."""
    tensors = {"embeddings": np.ascontiguousarray(embeddings_nchw, dtype=np.float32)}
    return save(tensors, {"names": json.dumps(list(names), ensure_ascii=False)})


def _continued(folder: Path, wanted: Manifest) -> Manifest:
    """Read the manifest of a stopped output of the same content, and check its shards."""
    found = read_any_manifest(folder)
    mine, theirs = (each.model_dump(exclude=_PROGRESS) for each in (wanted, found))
    if names := [name for name in mine if mine[name] != theirs[name]]:
        what = " and ".join(name.removesuffix("_digest") for name in names)
        raise UsageError(
            f"{folder} holds another output (with other {what}): choose another --out, or "
            "--overwrite it."
        )
    for shard in found.shards:
        shard.checked(folder)
    return found.model_copy(update={"version": wanted.version})  # older shards stay as they are


def _remove(folder: Path, pattern: str) -> None:
    """Remove the files that are written here and match."""
    for path in folder.glob(pattern):
        if _OWN.fullmatch(path.name):
            path.unlink()
