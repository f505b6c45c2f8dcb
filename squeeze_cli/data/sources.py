"""Sources: where the images and masks of a data set are, and what its mask values mean."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Self

from squeeze_cli.config.classes import ClassTable
from squeeze_cli.config.parts import DATASETS
from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.reading import DIGEST_BYTES
from squeeze_cli.data.samples import Sample


@dataclass(frozen=True)
class Listing:
    """Samples by split; where `val` or `test` is empty, `data/splits.py` draws it from `train`.

    Attributes:
        skipped: Name of each sample that is left out, and the reason.
        warnings: What else is to be said, one line each.
    """

    train: tuple[Sample, ...]
    val: tuple[Sample, ...] = ()
    test: tuple[Sample, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def named(self) -> dict[str, tuple[Sample, ...]]:
        """Return the samples by the names of the splits."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def without(
        self, kept: Mapping[str, Sequence[Sample]], skipped: Iterable[tuple[str, str]]
    ) -> Self:
        """Return the splits with the samples that were kept of each, and with more skipped ones."""
        train, val, test = (tuple(kept[name]) for name in self.named())
        more = (*self.skipped, *skipped)
        return replace(self, train=train, val=val, test=test, skipped=more)

    def digest(self, *splits: str) -> str:
        """Hex BLAKE2b-128 over names and contents, in order, of all or some splits, once read."""
        total = blake2b(digest_size=DIGEST_BYTES)
        named = self.named()
        for split in splits or named:
            for sample in named[split]:
                total.update(f"{split}\0{sample.name}\0{sample.digest()}\n".encode())
        return total.hexdigest()

    def names_digest(self, without: Collection[str] = ()) -> str:
        """Hex BLAKE2b-128 of the names by split, but for some."""
        return _digest_lines(
            f"{split}\0{sample.name}"
            for split, part in self.named().items()
            for sample in part
            if sample.name not in without
        )

    def part_digests(self) -> dict[str, str]:
        """Hex BLAKE2b-128 of the names by split, the images, and the masks with their classes, once read.

        Where `digest` differs, they say what does.
        """
        digests = [each.digest().partition(" ") for part in self.named().values() for each in part]
        return {
            "names": self.names_digest(),
            "images": _digest_lines(content for content, _, _ in digests),
            "masks": _digest_lines(labels for _, _, labels in digests),
        }


def _digest_lines(lines: Iterable[str]) -> str:
    return blake2b("\n".join(lines).encode(), digest_size=DIGEST_BYTES).hexdigest()


class DataSource(ABC):
    """Base of all data sets.

    Attributes:
        classes: The classes of its masks; None where the configuration says them, or they are
            detected.
        stray_share: Share of a mask's pixels that may have values without a class.
        fix: What to do about masks with other values, as the end of a message.
    """

    classes: ClassTable | None = None
    stray_share = 0.0
    fix = "Correct the masks."

    @classmethod
    @abstractmethod
    def of(cls, config: DataConfig) -> Self:
        """Return the source that a configuration describes; this reads nothing."""

    @abstractmethod
    def listing(self) -> Listing:
        """List the samples without reading them; raises SqueezeError where data are missing."""


def known_classes(config: DataConfig) -> ClassTable | None:
    """Return the classes that a configuration says or its data set has; None before they are found."""
    return config.classes or open_source(config).classes


def open_source(config: DataConfig) -> DataSource:
    """Return the source of the data set that a configuration names."""
    source: DataSource = DATASETS.load(str(config.dataset)).of(config)
    return source
