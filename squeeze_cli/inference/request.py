"""Request for an extraction, which is checked before torch is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Literal, get_args

from squeeze_cli.codec.manifest import Content
from squeeze_cli.errors import UsageError, nearest

Split = Literal["train", "val", "test", "all"]
Coding = Literal["prior", "packed"]
Engine = Literal["local", "ray"]


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
        for name, least in (("images_per_shard", 1), ("num_workers", 0)):
            if (number := getattr(self, name)) is None:
                continue
            if not isinstance(number, Integral) or int(number) < least:
                raise UsageError(f"--{name.replace('_', '-')} is at least {least}, a whole number.")
            object.__setattr__(self, name, int(number))  # no integer of NumPy
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
