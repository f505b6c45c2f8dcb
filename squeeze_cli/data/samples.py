"""Samples, whose image and mask are read when they are needed, and the data sets that list them."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from squeeze_cli.config.classes import ClassTable
from squeeze_cli.config.parts import DATASETS
from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.encoded import EncodedImage, ImageFacts, ReadImage, read_image
from squeeze_cli.data.labels import Labels
from squeeze_cli.data.masks import Mask, read_mask
from squeeze_cli.data.reading import UnreadableImageError, hex_digest, stamp_of


@dataclass(frozen=True)
class Sample(ABC):
    """One image and its mask; picklable, so that it can be sent to worker processes.

    `labels` is None until `data/splits.py` has read the mask, `facts` until `features/prepare.py` has
    read the image.
    """

    name: str  # unique in its data set, such as 'Abyssinian_100'
    labels: Labels | None = field(default=None, kw_only=True, compare=False, repr=False)
    facts: ImageFacts | None = field(default=None, kw_only=True, compare=False, repr=False)

    @abstractmethod
    def read(self) -> ReadImage:
        """Read the image.

        Raises UnreadableImageError if the file is missing or broken, or not of the mask's size.
        """

    def read_mask(self) -> Mask | None:
        """Return the mask, or None for an image without one; UnreadableImageError if it is broken."""
        return None

    def stamp(self) -> str:
        """Return a text that changes when the sample's file changes, without reading the file."""
        return ""

    def fingerprint(self) -> str:
        """Read the sample and return a digest of its content, or "" if it cannot be read."""
        try:
            return self.read().facts.digest
        except UnreadableImageError:
            return ""

    def known(self) -> ImageFacts:
        """Return the facts of the image, which must have been read."""
        assert self.facts is not None, f"{self.name} was not read yet"
        return self.facts

    def digest(self) -> str:
        """Return a text that identifies the pixels and their classes, without paths and times."""
        return f"{self.known().digest} {'' if self.labels is None else self.labels.digest()}"


@dataclass(frozen=True)
class FileSample(Sample):
    """An image in a file, with or without a mask in another file."""

    image_path: Path
    mask_path: Path | None = None

    def read(self) -> EncodedImage:
        """Read the image file with `encoded.read_image`."""
        return read_image(self.image_path, self.labels.mask.size_px if self.labels else None)

    def stamp(self) -> str:
        """Return size and modification time of the image file, or "" if it is missing."""
        return stamp_of(self.image_path)

    def is_in(self, file: Path) -> bool:
        """Return whether `file` is, or links to, the file of the image or of the mask."""
        own = [path for path in (self.image_path, self.mask_path) if path is not None]
        return file.exists() and any(path.exists() and file.samefile(path) for path in own)

    def read_mask(self) -> Mask | None:
        """Read the mask file, if there is one, with `masks.read_mask`."""
        return None if self.mask_path is None else read_mask(self.mask_path)


@dataclass(frozen=True)
class StoredSample(Sample):
    """An image without a mask at an address or in an archive, there `size` bytes from `start` on."""

    place: str
    start: int = 0
    size: int | None = None

    def stamp(self) -> str:
        """Return the place, and size and modification time of a local file."""
        return f"{self.place} {self.start} {self.size} {stamp_of(Path(self.place))}"

    def read(self) -> EncodedImage:
        """Read the image with `encoded.read_image`."""
        label = self.place if self.size is None else f"{self.name} in {self.place}"
        return read_image(self.place, None, self.start, self.size, label)


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
