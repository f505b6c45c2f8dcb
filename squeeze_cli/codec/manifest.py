"""Models of the manifest of a folder of shards (codes or embeddings), and of the record of a shard.

manifest.json sums up the records beside the shards, so that an output grows without rewriting a file.
docs/codes-format.md describes the fields.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, NonNegativeInt, PositiveInt, model_validator

from squeeze_cli.errors import UsageError

# In the versions before 3, manifest.json described all shards itself.
FORMAT, RECORD_FORMAT, VERSION = "squeeze-embeddings", "squeeze-shard", 3
STEM_PATTERN = r"(codes|quantized|features)-\d{5,}"
SHARD_PATTERN = rf"{STEM_PATTERN}\.(safetensors|sqz)"
Content = Literal["codes", "quantized", "features"]
Space = Literal["backbone", "adapted"]


def _check_sums(sums: dict[str, float]) -> dict[str, float]:
    """Raise ValueError for sums from which no distortion can be computed."""
    if sums.get("squared_error", 0) < 0 or sums.get("vectors", 1) <= 0:
        raise ValueError("sums of a shard are below zero")
    return sums


_Sums = Annotated[dict[str, float], AfterValidator(_check_sums)]


class Settings(BaseModel, defer_build=True, strict=True, extra="forbid", allow_inf_nan=False):
    """Settings that, together with the content of the images, determine the bytes of an output's shards.

    `plan` is a digest of the names of all images in order; each `images_per_shard` of them make a shard.
    """

    content: Content
    run: str
    run_digest: str
    source: str
    plan: str
    images_per_shard: PositiveInt
    precision: str | None = None
    coding: Literal["prior", "packed"] | None = None
    levels: PositiveInt | None = None
    dtype: Literal["float16", "float32"] | None = None
    space: Space

    def settings(self) -> dict[str, object]:
        """Return the fields of `Settings` only."""
        return self.model_dump(include=set(Settings.model_fields))

    def stem(self, number: int) -> str:
        """Return the name of a shard's files without their endings."""
        return f"{self.content}-{number:05d}"

    def file(self, number: int) -> str:
        """Return the name of a shard's file."""
        return f"{self.stem(number)}.{'sqz' if self.content == 'codes' else 'safetensors'}"

    def differing(self, other: "Settings") -> list[str]:
        """Return the names of the settings in which `other` differs."""
        mine, theirs = self.settings(), other.settings()
        return [name for name in mine if mine[name] != theirs[name]]

    def require_same(self, other: "Settings", folder: Path) -> None:
        """Raise UsageError, which names the differences, unless `other` has the same settings."""
        names = [
            n.removesuffix("_digest") if n != "plan" else "images" for n in self.differing(other)
        ]
        if names:
            raise UsageError(
                f"{folder} holds another output (with different {' and '.join(dict.fromkeys(names))}): "
                "choose another --out, or --overwrite it."
            )


class ShardRecord(Settings):
    """Content of the JSON file beside a shard, number `number` of `shards`.

    A shard without images has no file. `skipped` has name and reason of images that cannot be read;
    the distortion is computed from `sums`. `contents` is a digest of the images' bytes, `stamps` a
    digest of the sizes and times of their files.
    """

    format: Literal["squeeze-shard"] = "squeeze-shard"
    version: PositiveInt = VERSION
    number: NonNegativeInt
    shards: PositiveInt
    images: NonNegativeInt
    bytes: NonNegativeInt
    blake2b: str
    skipped: list[dict[Literal["name", "reason"], str]] = Field(default_factory=list)
    sums: _Sums = Field(default_factory=dict)
    contents: str = ""
    stamps: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.number >= self.shards:
            raise ValueError("number is not below shards")
        if not 1 <= self.images + len(self.skipped) <= self.images_per_shard:
            raise ValueError("images are more or fewer than a shard has")
        return self


class Manifest(Settings):
    """Content of manifest.json: sums over the records of all `shards`."""

    format: Literal["squeeze-embeddings"] = "squeeze-embeddings"
    version: PositiveInt = VERSION
    shards: NonNegativeInt
    images: NonNegativeInt
    skipped_images: NonNegativeInt
    bytes: NonNegativeInt
    sums: _Sums


class ExtractionSummary(BaseModel, defer_build=True):
    """Sizes of extracted files, and the distortion; a field that does not apply to `content` is None.

    Figures cover all shards of a `complete` output, otherwise the shards of this process, and
    `skipped` its images that could not be read. Ratios are to the backbone's features as float32 or
    float16; `_with_decoder` includes the bytes that a decoder needs once. `mse` and `cosine` are
    computed on normalized features.
    """

    run: str
    out: str
    content: str
    coding: str | None
    levels: int | None
    source: str
    images: int
    skipped_images: int
    skipped: list[dict[Literal["name", "reason"], str]] = []
    complete: bool = True
    vectors: int
    shards: int
    file_bytes: int
    bytes_per_image: float
    bits_per_feature_point: float
    bits_per_pixel: float | None
    compression_ratio_float32: float
    compression_ratio_float16: float
    mse: float | None = None
    cosine: float | None = None
    nominal_bits_per_vector: float | None = None
    bits_per_vector: float | None = None
    decoder_bytes: int | None = None
    compression_ratio_float32_with_decoder: float | None = None
    compression_ratio_float16_with_decoder: float | None = None


class EarlierShard(BaseModel, defer_build=True, strict=True, extra="forbid", allow_inf_nan=False):
    """Entry of a shard in `EarlierManifest`, with the names of its images."""

    file: Annotated[str, Field(pattern=rf"^{SHARD_PATTERN}$")]
    bytes: int
    blake2b: str
    names: list[str]
    sums: _Sums


class EarlierManifest(Settings):
    """Content of manifest.json in the versions 1 and 2, which are only read and have no `plan`."""

    format: Literal["squeeze-embeddings"]
    version: PositiveInt
    plan: str = ""
    images_per_shard: PositiveInt = 1
    images_digest: str | None = None
    complete: bool = False
    images: int = 0
    bytes: int = 0
    shards: list[EarlierShard] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.images != sum(len(shard.names) for shard in self.shards):
            raise ValueError("images is not the number of names in its shards")
        if self.bytes != sum(shard.bytes for shard in self.shards):
            raise ValueError("bytes is not the sum over its shards")
        return self


def record_of(
    settings: Settings, number: int, shards: int, content: bytes, images: int, **others: object
) -> ShardRecord:
    """Return the record of a shard's `content`; `others` are the fields with a default."""
    digest = blake2b(content, digest_size=16).hexdigest()
    own = {"number": number, "shards": shards, "images": images, "bytes": len(content)}
    return ShardRecord.model_validate(settings.settings() | own | {"blake2b": digest} | others)


def sum_up(settings: Settings, records: Sequence[ShardRecord]) -> Manifest:
    """Return the manifest of an output with these settings and shards."""
    own = {
        "shards": len(records),
        "images": sum(record.images for record in records),
        "skipped_images": sum(len(record.skipped) for record in records),
        "bytes": sum(record.bytes for record in records),
        "sums": add_sums(record.sums for record in records),
    }
    return Manifest.model_validate(settings.settings() | own)


def add_sums(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum of the values of each name over all parts."""
    sums: dict[str, float] = {}
    for name, value in (item for part in parts for item in part.items()):
        sums[name] = sums.get(name, 0.0) + value
    return sums
