"""The request for an extraction, which is checked before torch is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from squeeze_cli.codec.manifest import Content
from squeeze_cli.errors import UsageError, nearest

Split = Literal["train", "val", "test", "all"]
Coding = Literal["prior", "packed"]


@dataclass(frozen=True)
class Extraction:
    """Request for an extraction: of which images, in which form, and where to.

    `squeeze_cli.api.extract` describes the fields. Raises UsageError where they contradict each
    other.
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

    def __post_init__(self) -> None:
        for name, kind in {"split": Split, "content": Content, "coding": Coding}.items():
            value, known = getattr(self, name), get_args(kind)
            if value is not None and value not in known:
                raise UsageError(f"Unknown {name} {value!r}: {nearest(str(value), known)}")
        sources = [n for n in ("split", "images", "features") if getattr(self, n) is not None]
        if len(sources) > 1:
            named = " and ".join(f"--{name}" for name in sources)
            raise UsageError(f"{named} contradict each other: take one.")
        if self.feature_names is not None and self.features is None:
            raise UsageError("--feature-names has no effect without --features PATH: add it.")
        if self.coding is not None and self.content != "codes":
            raise UsageError(f"--coding is for --format codes, not {self.content}: leave it out.")
        if self.levels is not None and self.content == "features":
            raise UsageError("--levels is for codes and what is made of them: leave it out.")
