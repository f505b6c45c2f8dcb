"""Samples, whose image and mask are read when they are needed."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from squeeze_cli.data.encoded import EncodedImage, ImageFacts, ReadImage, read_image
from squeeze_cli.data.labels import Labels
from squeeze_cli.data.masks import Mask, read_mask
from squeeze_cli.data.reading import UnreadableImageError, stamp_of


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
