"""Data sets and their listings: the samples of each split."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from squeeze_cli.config.classes import ClassTable
from squeeze_cli.config.parts import DATASETS
from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.reading import hex_digest
from squeeze_cli.data.samples import Sample


@dataclass(frozen=True)
class Listing:
    """Samples by split; if `val` or `test` is empty, `data/splits.py` draws it from `train`.

    Attributes:
        skipped: Name of each sample that is left out, and the reason.
        warnings: Warnings of one line each.
    """

    train: tuple[Sample, ...]
    val: tuple[Sample, ...] = ()
    test: tuple[Sample, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def named(self) -> dict[str, tuple[Sample, ...]]:
        """Return the samples by the names of the splits."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def with_splits(
        self, splits: Mapping[str, Iterable[Sample]], skipped: Iterable[tuple[str, str]] = (),
        warnings: Iterable[str] = (),
    ) -> Self:  # fmt: skip
        """Return the listing with other samples in some splits, and further skipped ones and warnings."""
        others = {name: tuple(samples) for name, samples in splits.items()}
        skipped, warnings = (*self.skipped, *skipped), (*self.warnings, *warnings)
        return replace(self, **others, skipped=skipped, warnings=warnings)

    def digest(self, *splits: str) -> str:
        """Return the hex BLAKE2b-128 of names and contents, in order, of the given splits or all."""
        named = self.named()
        lines = [
            f"{split}\0{sample.name}\0{sample.digest()}\n"
            for split in splits or named
            for sample in named[split]
        ]
        return hex_digest("".join(lines).encode())

    def names_digest(self, without: Collection[str] = ()) -> str:
        """Return the hex BLAKE2b-128 of the names by split, except those in `without`."""
        return _digest_lines(
            f"{split}\0{sample.name}"
            for split, part in self.named().items()
            for sample in part
            if sample.name not in without
        )

    def part_digests(self) -> dict[str, str]:
        """Return separate digests of the names by split, the images, and the masks with their classes.

        They show which part differs where `digest` differs.
        """
        digests = [each.digest().partition(" ") for part in self.named().values() for each in part]
        return {
            "names": self.names_digest(),
            "images": _digest_lines(content for content, _, _ in digests),
            "masks": _digest_lines(labels for _, _, labels in digests),
        }


def _digest_lines(lines: Iterable[str]) -> str:
    return hex_digest("\n".join(lines).encode())


class DataSource(ABC):
    """Base of all data sets; one is made from a configuration, without reading files.

    Attributes:
        classes: The classes of its masks; None where the configuration has them, or they are detected.
        stray_share: Largest fraction of a mask's pixels whose values have no class.
        fix: Hint at the end of the message on masks with other values.
    """

    classes: ClassTable | None = None
    stray_share = 0.0
    fix = "Correct the masks."

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    @abstractmethod
    def listing(self) -> Listing:
        """List the samples without reading them; raises SqueezeError where data are missing."""


def known_classes(config: DataConfig) -> ClassTable | None:
    """Return the classes of a configuration or its data set; None if they are not detected yet."""
    return config.classes or open_source(config).classes


def open_source(config: DataConfig) -> DataSource:
    """Return the source of the data set that a configuration names."""
    source: DataSource = DATASETS.load(str(config.dataset))(config)
    return source
