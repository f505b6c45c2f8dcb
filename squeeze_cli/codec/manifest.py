"""The manifest of a folder of shards: codes, or embeddings, that `extract-embeddings` wrote.

docs/codes-format.md describes the fields.
"""

from collections.abc import Sequence
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, PositiveInt, model_validator

from squeeze_cli.config.fields import reason_of
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.files import read_json

MANIFEST_NAME = "manifest.json"
# Version 2 has codes files of version 2, which do not end in `.safetensors`.
FORMAT, VERSION = "squeeze-embeddings", 2
SHARD_PATTERN = r"(codes|quantized|features)-\d{5,}\.(safetensors|sqz)"
Content = Literal["codes", "quantized", "features"]


class DamagedManifestError(SqueezeError):
    """A manifest of squeeze that cannot be read."""


class ForeignManifestError(UsageError):
    """A manifest of another program."""


class ShardEntry(BaseModel, strict=True, extra="forbid", allow_inf_nan=False):
    """One shard; the distortion is computed from `sums`."""

    file: Annotated[str, Field(pattern=rf"^{SHARD_PATTERN}$")]
    bytes: int
    blake2b: str
    names: list[str]
    sums: dict[str, float]

    def checked(self, folder: Path) -> Path:
        """Return the shard's file; SqueezeError unless its content is that of the manifest."""
        path = folder / self.file
        if not path.is_file() or path.stat().st_size != self.bytes or digest(path) != self.blake2b:
            raise SqueezeError(f"{path} is missing or damaged: extract it again, with --overwrite.")
        return path


class Manifest(BaseModel, strict=True, extra="forbid"):
    """Content of manifest.json; the fields from `complete` on change while it is written."""

    format: Literal["squeeze-embeddings"] = "squeeze-embeddings"
    version: PositiveInt = VERSION
    content: Content
    run: str
    run_digest: str
    source: str
    images_digest: str | None = None
    precision: str | None = None
    coding: Literal["prior", "packed"] | None = None
    levels: PositiveInt | None = None  # older manifests have none
    dtype: Literal["float32"] | None = None
    space: Literal["backbone", "adapted"]
    complete: bool = False
    images: int = 0
    bytes: int = 0
    shards: list[ShardEntry] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check_sums(self) -> Self:
        if self.images != len(self.names):
            raise ValueError("images are not as many as the names of its shards")
        if self.bytes != sum(shard.bytes for shard in self.shards):
            raise ValueError("bytes are not those of its shards together")
        for sums in (shard.sums for shard in self.shards):
            if sums.get("squared_error", 0) < 0 or sums.get("vectors", 1) <= 0:
                raise ValueError("sums of a shard are below zero")
        return self

    @property
    def names(self) -> list[str]:
        """The names of the images of all shards, in order."""
        return [name for shard in self.shards for name in shard.names]

    def require_names(self, names: Sequence[str], folder: Path) -> None:
        """Raise SqueezeError unless `names`, from elsewhere, are those of the shards."""
        if list(names) != self.names:
            raise SqueezeError(
                f"{folder / MANIFEST_NAME} names other images than its shards hold: extract them again, "
                "with --overwrite."
            )

    def total(self, name: str) -> float:
        """Return the sum of `sums[name]` over all shards."""
        return sum(shard.sums.get(name, 0.0) for shard in self.shards)


def digest(path: Path) -> str:
    """Return the digest of a shard's content, as hexadecimal digits."""
    with path.open("rb") as file:  # in pieces: a shard may be large
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a complete output; raises SqueezeError where there is none."""
    if not (folder / MANIFEST_NAME).exists():
        raise SqueezeError(
            f"{folder} holds no {MANIFEST_NAME}: give a codes file, or a folder that `squeeze "
            "extract-embeddings` wrote."
        )
    found = read_any_manifest(folder)
    if not found.complete:
        raise SqueezeError(f"{folder} is not complete: run the same extraction again to continue.")
    return found


def read_any_manifest(folder: Path) -> Manifest:
    """Read the manifest in `folder`, of a complete output or not."""
    path = folder / MANIFEST_NAME
    try:
        content = read_json(path)
        if content.get("format") != FORMAT:
            raise ForeignManifestError(f"{path} is another program's: choose another folder.")
        version = content.get("version")
        if isinstance(version, int) and version > VERSION:
            raise SqueezeError(f"{path} is of a newer version: update squeeze.")
        return Manifest.model_validate(content)
    except (OSError, ValueError) as error:
        raise DamagedManifestError(
            f"{path} cannot be read ({reason_of(error)}): extract again, with --overwrite."
        ) from None
