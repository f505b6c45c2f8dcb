"""Samples: images and their masks, which are read when they are needed."""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from squeeze_cli.data.encoded import EncodedImage, ImageFacts, ReadImage, read_image
from squeeze_cli.data.labels import Labels
from squeeze_cli.data.masks import Mask, read_mask
from squeeze_cli.errors import SqueezeError

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True)
class Sample(ABC):
    """One image and its mask; picklable, so that it can be sent to worker processes.

    `labels` has the classes of the mask, once `data/splits.py` has read it, and `facts` what is
    known of the image, once `features/prepare.py` has read it.
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
        """Read the mask, None where there is none; raises UnreadableImageError if it is broken."""
        return None

    def known(self) -> ImageFacts:
        """Return the facts of an image that was read."""
        assert self.facts is not None, f"{self.name} was not read yet"
        return self.facts

    def digest(self) -> str:
        """Return a text that decides the pixels and their classes; paths and times do not count."""
        return f"{self.known().digest} {'' if self.labels is None else self.labels.digest()}"


@dataclass(frozen=True)
class FileSample(Sample):
    """An image in a file, with or without a mask in another file."""

    image_path: Path
    mask_path: Path | None = None

    def read(self) -> EncodedImage:
        """Read the image file with `encoded.read_image`."""
        return read_image(
            self.image_path, None if self.labels is None else self.labels.mask.size_px
        )

    def read_mask(self) -> Mask | None:
        """Read the mask file, if there is one, with `masks.read_mask`."""
        return None if self.mask_path is None else read_mask(self.mask_path)


def list_images(folder: Path) -> list[FileSample]:
    """List the images in a folder and in all folders below it, sorted by path, without masks.

    A sample's name is its path below `folder` without the suffix ('cats/tom'); if two images would
    share a name, both keep the suffix. Links to folders are followed; hidden files and folders are
    left out. Raises SqueezeError if there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise SqueezeError(f"There is no folder {folder}: give a folder of images.")
    below = sorted(
        path.relative_to(folder)
        for path in _files_below(folder, frozenset())
        if path.suffix.lower() in IMAGE_SUFFIXES
    )
    if not below:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SqueezeError(f"The folder {folder} holds no images: put some there ({suffixes}).")
    names = names_below(below)
    return [FileSample(name, folder / path) for name, path in zip(names, below, strict=True)]


def names_below(paths: Sequence[Path]) -> list[str]:
    """Return names for files by their paths below a folder: without suffix where that is unique."""
    uses = Counter(path.with_suffix("") for path in paths)
    return [
        (path if uses[path.with_suffix("")] > 1 else path.with_suffix("")).as_posix()
        for path in paths
    ]


def _files_below(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Yield all that is no folder; a link back to a folder `above` is not followed."""
    real = folder.resolve()
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise SqueezeError(f"Cannot list {folder} ({error.strerror or error}): fix that.") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files_below(folder / entry.name, above | {real})
        else:
            yield folder / entry.name
