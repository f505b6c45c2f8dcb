"""Reading and checking of a folder of shards by its manifest and records."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import NamedTuple

from squeeze_cli.codec.manifest import (
    FORMAT,
    RECORD_FORMAT,
    STEM_PATTERN,
    VERSION,
    Content,
    EarlierManifest,
    Manifest,
    ShardRecord,
    Space,
    sum_up,
)
from squeeze_cli.config.fields import reason_of
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.files import read_json, remove_parts, write_atomically

MANIFEST_NAME = "manifest.json"
_RECORD_NAME = re.compile(rf"{STEM_PATTERN}\.json")
_AGAIN = "run the same extraction again"


class DamagedManifestError(SqueezeError):
    """A manifest or record that cannot be read."""


class EmptyOutputError(SqueezeError):
    """An output in which no image could be read."""


class ForeignManifestError(UsageError):
    """A manifest or record of another program."""


@dataclass(frozen=True)
class ShardFile:
    """A shard of a complete output, as its record describes it.

    `names` are the names of its images, if a manifest of version 1 or 2 lists them.
    """

    path: Path
    images: int
    bytes: int
    blake2b: str
    names: Sequence[str] | None = None

    def checked(self) -> Path:
        """Return the shard's file; raises SqueezeError if it is missing or damaged."""
        if not self.is_whole():
            raise SqueezeError(f"{self.path} is missing or damaged: {_AGAIN}.")
        return self.path

    def is_whole(self) -> bool:
        """Return whether the file exists and has the recorded size and digest."""
        there = self.path.is_file() and self.path.stat().st_size == self.bytes
        return there and digest(self.path) == self.blake2b

    def require_names(self, names: Sequence[str]) -> None:
        """Raise SqueezeError unless `names`, read from the shard, fit the record."""
        if len(names) != self.images or self.names not in (None, list(names)):
            raise SqueezeError(
                f"{self.path} has other images than its record: extract again, with --overwrite."
            )


class Output(NamedTuple):
    """A complete output: kind and space of its embeddings, and the shards that have images."""

    content: Content
    space: Space
    shards: list[ShardFile]


def shard_file(record: ShardRecord, folder: Path) -> ShardFile:
    """Return the shard in `folder` that a record describes."""
    return ShardFile(
        folder / record.file(record.number), record.images, record.bytes, record.blake2b
    )


def digest(path: Path) -> str:
    """Return the digest of a shard's content, as hexadecimal digits."""
    with path.open("rb") as file:  # in pieces: a shard may be large
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def read_output(folder: Path) -> Output:
    """Read the description of a complete output; raises SqueezeError if it is missing or not complete."""
    if not (folder / MANIFEST_NAME).exists():
        if next(record_files(folder), None):
            raise SqueezeError(
                f"{folder} is not complete: {_AGAIN} to continue; `squeeze merge {folder}` says what is "
                "missing."
            )
        raise SqueezeError(
            f"{folder} holds no {MANIFEST_NAME}: give a codes file, or a folder that `squeeze "
            "extract-embeddings` wrote."
        )
    found = read_manifest(folder)
    if isinstance(found, EarlierManifest):
        if not found.complete:
            raise SqueezeError(f"{folder} is not complete: extract again, with --overwrite.")
        shards = [
            ShardFile(
                folder / shard.file, len(shard.names), shard.bytes, shard.blake2b, shard.names
            )
            for shard in found.shards
        ]
        return Output(found.content, found.space, shards)
    records = [read_record(folder / f"{found.stem(n)}.json") for n in range(found.shards)]
    fitting = all(r.shards == found.shards and not found.differing(r) for r in records)
    if not fitting or sum_up(found, records) != found:
        raise SqueezeError(f"{folder / MANIFEST_NAME} does not fit its shards: {_AGAIN}.")
    shards = [shard_file(record, folder) for record in records if record.images]
    return Output(found.content, found.space, shards)


def read_manifest(folder: Path) -> Manifest | EarlierManifest:
    """Read the manifest in `folder`, of any version."""
    path = folder / MANIFEST_NAME
    try:
        content = _read(path, FORMAT)
        earlier = content.get("version") in (1, 2)
        return (EarlierManifest if earlier else Manifest).model_validate(content)
    except (OSError, ValueError) as error:
        raise DamagedManifestError(
            f"{path} cannot be read ({reason_of(error)}): extract again, with --overwrite."
        ) from None


def read_record(path: Path) -> ShardRecord:
    """Read the record of a shard; raises DamagedManifestError if it is missing or damaged."""
    try:
        record = ShardRecord.model_validate(_read(path, RECORD_FORMAT))
        if record.stem(record.number) != path.stem:
            raise ValueError("it belongs to another shard")
    except (OSError, ValueError) as error:
        raise DamagedManifestError(
            f"{path} cannot be read ({reason_of(error)}): {_AGAIN}."
        ) from None
    return record


def record_files(folder: Path) -> Iterator[Path]:
    """Return the files in `folder` that have the name of a record."""
    return (path for path in folder.glob("*.json") if _RECORD_NAME.fullmatch(path.name))


def merge_records(folder: Path, *, thorough: bool = True) -> Manifest:
    """Check that all shards of an output are there, and write its manifest.

    With `thorough` the digests of the shards are checked too. Raises SqueezeError if shards are
    missing or damaged, or belong to different outputs.
    """
    files = {path.stem: path for path in sorted(record_files(folder))}
    if not files:
        raise SqueezeError(f"{folder} holds no shards: give the folder of an extraction.")
    first = read_record(next(iter(files.values())))
    if lacking := first.shards - len(files):
        absent = (first.file(n) for n in range(first.shards) if first.stem(n) not in files)
        raise SqueezeError(
            f"{folder} holds {len(files)} of {first.shards} shards ({next(absent)} is missing): "
            f"{_AGAIN}, or its part by --shard-index."
            if lacking > 0
            else f"{folder} has records of {len(files)} shards, and its output {first.shards}: remove "
            "those of another output, or extract again with --overwrite."
        )
    records = [read_record(path) for path in files.values()]
    for record in records:
        if first.differing(record) or record.shards != first.shards:
            what = " and ".join(first.differing(record) or ["shards"])
            pair = f"{first.file(first.number)} and {record.file(record.number)}"
            raise SqueezeError(
                f"{pair} in {folder} are of two outputs (with different {what}): remove one with all its "
                "shards and their records, or extract again with --overwrite."
            )
        shard = shard_file(record, folder)
        if record.images and not (shard.is_whole() if thorough else shard.path.exists()):
            raise SqueezeError(f"{shard.path} is missing or damaged: {_AGAIN}.")
    manifest = sum_up(first, records)
    if not manifest.images:
        raise EmptyOutputError(f"No image can be read, such as {records[0].skipped[0]['reason']}")
    write_atomically(folder / MANIFEST_NAME, manifest.model_dump_json(indent=1) + "\n")
    remove_parts([folder])  # of workers that were killed
    return manifest


def _read(path: Path, kind: str) -> dict[str, object]:
    """Return the object in a JSON file of the format `kind`; SqueezeError for a newer version."""
    content = read_json(path)
    if content.get("format") != kind:
        raise ForeignManifestError(f"{path} is another program's: choose another folder.")
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        raise SqueezeError(f"{path} is of a newer version: update squeeze.")
    return content
