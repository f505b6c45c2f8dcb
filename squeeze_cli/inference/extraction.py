"""Request for an extraction, which is checked before torch is imported, and the plan of its shards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from squeeze_cli.codec.manifest import Content
from squeeze_cli.errors import SqueezeError, UsageError, nearest

if TYPE_CHECKING:
    from squeeze_cli.data.samples import Sample

Split = Literal["train", "val", "test", "all"]
Coding = Literal["prior", "packed"]
Engine = Literal["local", "ray"]

# Most images of a shard by default: it takes a core about a minute, and codes have some dozen kilobytes.
IMAGES_PER_SHARD = 1000
# A plan of at least `EVEN_SHARDS` shards occupies two, four or eight workers evenly. Shards are not made
# smaller than `FEWEST_IMAGES` for this (half of it after rounding), because each has a header.
EVEN_SHARDS, FEWEST_IMAGES = 8, 500
# Most bytes of a shard of embeddings by default.
EMBEDDING_SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Extraction:
    """Request for an extraction: images, format, output folder and workers.

    `squeeze_cli.api.extract` describes the fields. Raises UsageError if they contradict each other.
    """

    split: Split | None = None
    images: str | Path | None = None
    features: str | Path | None = None
    feature_names: str | Path | None = None
    content: Content = "codes"
    coding: Coding | None = None
    out: str | Path | None = None
    overwrite: bool = False
    levels: int | None = None
    num_workers: int | None = None
    images_per_shard: int | None = None
    shard_index: int | None = None
    num_shards: int | None = None
    engine: Engine = "local"
    address: str | None = None
    gpus_per_worker: float | None = None
    max_bad: str | float | None = None

    def __post_init__(self) -> None:
        kinds = {"split": Split, "content": Content, "coding": Coding, "engine": Engine}
        for name, kind in kinds.items():
            value, known = getattr(self, name), get_args(kind)
            if value is not None and value not in known:
                raise UsageError(f"Unknown {name} {value!r}: {nearest(str(value), known)}")
        sources = [n for n in ("split", "images", "features") if getattr(self, n) is not None]
        if len(sources) > 1:
            named = " and ".join(f"--{name}" for name in sources)
            raise UsageError(f"{named} contradict each other: use one.")
        if self.feature_names is not None and self.features is None:
            raise UsageError("--feature-names has no effect without --features PATH: add it.")
        if self.coding is not None and self.content != "codes":
            raise UsageError(f"--coding is for --format codes, not {self.content}: leave it out.")
        if self.levels is not None and self.content == "features":
            raise UsageError("--levels is for --format codes and quantized: leave it out.")
        for name in ("address", "gpus_per_worker"):
            if getattr(self, name) is not None and self.engine != "ray":
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} has no effect without --engine ray: add it.")
        if not re.fullmatch(r"auto|local|(ray://)?[^/:]+:\d+", self.address or "auto"):
            raise UsageError(
                f"--address {self.address}: give auto, local, HOST:PORT or ray://HOST:PORT."
            )
        if self.features is not None and self.engine == "ray":
            raise UsageError("--engine ray is for images, not --features: leave it out.")
        self.most_bad(1)
        if self.images_per_shard is not None and self.images_per_shard < 1:
            raise UsageError("--images-per-shard is at least 1.")
        index, count = self.shard_index, self.num_shards
        if index is None and count not in (None, 1):
            raise UsageError(f"--num-shards {count} needs --shard-index I, the part to do: add it.")
        if index is not None and (count is None or not 0 <= index < count):
            raise UsageError(
                f"--shard-index {index} needs --num-shards N above it; the first part is 0."
            )

    def most_bad(self, images: int) -> float:
        """Return the most unreadable images out of `images`; UsageError for an invalid `max_bad`."""
        if self.max_bad is None:
            return images
        text = str(self.max_bad)
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            number = -1
        if not (text.isdecimal() or 0 <= number <= 1):
            raise UsageError(
                f"--max-bad {text}: give a share such as 1% or 0.01, or a number of images."
            )
        return number if text.isdecimal() else number * images


@dataclass(frozen=True)
class Part:
    """The part of an extraction that this process makes: every shard i with i mod count = index.

    `source` names the environment variables that define it, if there are any.
    """

    index: int = 0
    count: int = 1
    source: str = ""

    def numbers(self, shards: int) -> range:
        """Return the numbers of this part's shards."""
        return range(self.index, shards, self.count)


def choose_part(request: Extraction, variables: Mapping[str, str]) -> Part:
    """Return the requested part, or else the part that a queue or launcher gives this process.

    The environment variables of SLURM job arrays, of SLURM tasks (`srun`) and of torchrun are read; tasks
    within an array divide its parts. Left-over variables are ignored if others are missing that only the
    launcher sets. Raises SqueezeError for variables that contradict each other.
    """
    part = Part(request.shard_index or 0, request.num_shards or 1)
    if request.num_shards is None:
        part = _launched_part(variables)
    if request.overwrite and part.count > 1:
        raise UsageError(
            "--overwrite would remove shards of other parts: remove the folder before the first part."
        )
    return part


def _launched_part(variables: Mapping[str, str]) -> Part:
    """Return the part that the variables of queues and launchers give this process."""
    part = Part()
    launchers = (
        ("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
        ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE")
        if "TORCHELASTIC_RUN_ID" in variables
        else ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS"),
    )
    for names in launchers:
        if not all(name in variables for name in names):
            continue
        first, index, count = (variables[name] for name in names)
        number, most = _whole(names[1], index), _whole(names[2], count)
        if names[0] == "SLURM_ARRAY_TASK_MIN":
            step = _whole("SLURM_ARRAY_TASK_STEP", variables.get("SLURM_ARRAY_TASK_STEP", "1"))
            number, rest = divmod(number - _whole(names[0], first), max(step, 1))
            most = most if not rest else 0
        if not 0 <= number < most:
            raise SqueezeError(
                f"{names[1]}={index} is no part of {names[2]}={count}: name the part by --shard-index "
                "and --num-shards."
            )
        if most > 1:
            source = " and ".join(filter(None, (part.source, f"{names[1]}={index}")))
            part = Part(part.index * most + number, part.count * most, source)
    return part


def _whole(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise SqueezeError(
            f"The environment variable {name} is {value!r}, not a whole number: unset it."
        )
    return int(value[:18])


@dataclass(frozen=True)
class Shard:
    """Number `number` of a plan's shards, and its images."""

    number: int
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Plan:
    """All images of an extraction, in order, and the number of images per shard."""

    samples: Sequence[Sample]
    images_per_shard: int

    def __len__(self) -> int:
        """Number of shards."""
        return -(-len(self.samples) // self.images_per_shard)

    def shard(self, number: int) -> Shard:
        """Return a shard, which depends on its own images only."""
        begin = number * self.images_per_shard
        return Shard(number, self.samples[begin : begin + self.images_per_shard])

    def digest(self) -> str:
        """Return a digest of all names in order."""
        return digest_of(sample.name for sample in self.samples)


def most_images(content: Content, points_per_image: int) -> int:
    """Return the most images of a shard by default, given the number of values per image."""
    if content == "codes":
        return IMAGES_PER_SHARD
    return max(1, min(IMAGES_PER_SHARD, EMBEDDING_SHARD_BYTES // (4 * points_per_image)))


def choose_images_per_shard(images: int, most: int) -> int:
    """Return the default number of images per shard: at most `most`, and the same on every machine.

    Up to `EVEN_SHARDS` shards are a power of two in number.
    """
    shards = 1
    while shards < EVEN_SHARDS and images > shards * FEWEST_IMAGES:
        shards *= 2
    return min(most, -(-images // shards))


def stamps_of(samples: Iterable[Sample]) -> str:
    """Return a digest of the sizes and times of image files, without reading them."""
    return digest_of(f"{sample.name}\0{sample.stamp()}" for sample in samples)


def digest_of(texts: Iterable[str]) -> str:
    """Return a digest of texts in order, sixteen hexadecimal digits."""
    content = "".join(f"{text}\0" for text in texts)
    return blake2b(content.encode(), digest_size=8).hexdigest()
