"""Sources: where the images and masks of a data set are, and what its mask values mean."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

from squeeze_cli.config.classes import ClassTable
from squeeze_cli.config.parts import DATASETS
from squeeze_cli.config.schema import DataConfig
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


def open_source(config: DataConfig) -> DataSource:
    """Return the source of the data set that a configuration names."""
    source: DataSource = DATASETS.load(str(config.dataset)).of(config)
    return source
