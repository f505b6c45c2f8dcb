"""Output folder of shards: locks, checks of its content, and writing."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from squeeze_cli.codec.manifest import (
    SHARD_PATTERN,
    STEM_PATTERN,
    EarlierManifest,
    Manifest,
    Settings,
    ShardRecord,
)
from squeeze_cli.codec.shards import (
    MANIFEST_NAME,
    DamagedManifestError,
    EmptyOutputError,
    merge_records,
    read_manifest,
    read_record,
    record_files,
    shard_file,
)
from squeeze_cli.console import Reporter
from squeeze_cli.errors import UsageError
from squeeze_cli.files import LOCK_NAME, PART_PATTERN, locked, write_atomically

# Files of an output; group 1 is the stem of a shard's file, record or lock.
_SHARD_FILE = re.compile(rf"\.?({STEM_PATTERN})\.(safetensors|sqz|json|lock)")
# Own files in a folder without manifest and records, including partial files of earlier versions.
_OWN = re.compile(
    rf"{_SHARD_FILE.pattern}|{re.escape(LOCK_NAME)}|{PART_PATTERN}"
    rf"|\.({SHARD_PATTERN}|manifest\.json)\..+\.part"
)
_ANOTHER = "choose another --out"
Array = NDArray[np.generic]


@dataclass
class OutputFolder:
    """Folder of `count` shards with the same `settings`, of which this process makes `numbers`.

    With `overwrite` the old content is removed when the first new shard is complete.
    """

    folder: Path
    settings: Settings
    count: int
    numbers: Collection[int]
    reporter: Reporter
    overwrite: bool
    _replaced: bool = field(default=False, init=False)

    @property
    def is_whole(self) -> bool:
        """True if this process makes all shards."""
        return len(self.numbers) == self.count

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Lock the folder, unless this process makes a part only, and check its content.

        Processes that make parts lock single shards; see `claimed_shard`. Raises SqueezeError if another
        process holds the lock, and UsageError for another output or foreign files.
        """
        with locked(self.folder, _ANOTHER) if self.is_whole else nullcontext():
            self._check()
            if self.is_whole:
                for part in self.folder.glob(".*.part"):  # a killed process left them
                    if _OWN.fullmatch(part.name):
                        part.unlink()
            yield

    @contextmanager
    def claimed_shard(self, number: int) -> Iterator[None]:
        """Lock a shard; raises SqueezeError if another process holds its lock."""
        with locked(self.folder, _ANOTHER, f".{self.settings.stem(number)}.lock"):
            yield

    def find(self, number: int) -> ShardRecord | None:
        """Return the record of a shard that exists and is not damaged, or None if it must be made.

        Raises UsageError if it belongs to another output.
        """
        if self.overwrite:
            return None
        with suppress(DamagedManifestError):
            record = read_record(self._record_file(number))
            self.settings.require_same(record, self.folder)
            shard = shard_file(record, self.folder)
            if record.shards == self.count and (not record.images or shard.is_whole()):
                return record
            self.reporter.warn(f"{shard.path} is missing or damaged: it is made again.")
        return None

    def count_missing(self) -> int:
        """Return the number of this process's shards that have no record."""
        if self.overwrite:
            return len(self.numbers)
        return sum(not self._record_file(number).exists() for number in self.numbers)

    def write(self, content: bytes, record: ShardRecord) -> None:
        """Write a shard, then its record, so that a record is never without its shard."""
        if not self._replaced:
            self._make_room()
        if record.images:
            write_atomically(self.folder / record.file(record.number), content)
        text = record.model_dump_json(indent=1)
        write_atomically(self._record_file(record.number), f"{text}\n")

    def finish(self) -> Manifest | None:
        """Write the manifest and return it; return None if shards are missing."""
        if not all(self._record_file(number).exists() for number in range(self.count)):
            return None
        try:
            return merge_records(self.folder, thorough=False)
        except EmptyOutputError:
            for number in range(self.count):  # so that they are made again once images can be read
                self._record_file(number).unlink(missing_ok=True)
            raise

    def _record_file(self, number: int) -> Path:
        return self.folder / f"{self.settings.stem(number)}.json"

    def _check(self) -> None:
        """Raise UsageError for another output in the folder, or foreign files."""
        manifest, records = self.folder / MANIFEST_NAME, record_files(self.folder)
        known: list[Settings] = []
        with suppress(DamagedManifestError) if self.overwrite else nullcontext():
            if manifest.exists():
                found = read_manifest(self.folder)  # another program's is not replaced
                if isinstance(found, EarlierManifest) and not self.overwrite:
                    raise UsageError(
                        f"{self.folder} holds an output of an earlier version: choose another --out, or "
                        "--overwrite it."
                    )
                known += [found] if isinstance(found, Manifest) else []
        for path in records:
            with suppress(DamagedManifestError):
                known.append(read_record(path))
                break  # `find` checks the others
        if not known and not manifest.exists():
            others = {path.name for path in self.folder.glob("*")}
            if not all(map(_OWN.fullmatch, others)):
                raise UsageError(f"{self.folder} holds other files: {_ANOTHER}.")
        for each in () if self.overwrite else known:
            self.settings.require_same(each, self.folder)

    def _make_room(self) -> None:
        """Remove the manifest, and with `overwrite` all old shards, before the first new shard."""
        self._replaced = True
        (self.folder / MANIFEST_NAME).unlink(missing_ok=True)
        for path in self.folder.iterdir() if self.overwrite else ():
            if _SHARD_FILE.fullmatch(path.name) and path.suffix != ".lock":
                path.unlink()


def encode_embeddings(embeddings_nchw: Array, names: Sequence[str]) -> bytes:
    """Return the content of a shard: tensor `embeddings` `[n, C, h, w]`, and metadata `names`."""
    tensors = {"embeddings": np.ascontiguousarray(embeddings_nchw)}
    return save(tensors, {"names": json.dumps(list(names), ensure_ascii=False)})
