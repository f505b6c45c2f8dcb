"""Samples: images and their masks, which are decoded when they are needed."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

from squeeze_cli.data.labels import Labels
from squeeze_cli.data.masks import Mask, read_mask
from squeeze_cli.data.reading import DIGEST_BYTES, UnreadableImageError, reading
from squeeze_cli.errors import SqueezeError

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True)
class Sample(ABC):
    """One image and its mask; picklable, so that it can be sent to worker processes.

    `labels` has the classes of the mask, once `data/splits.py` has read it.
    """

    name: str  # unique in its data set, such as 'Abyssinian_100'
    labels: Labels | None = field(default=None, kw_only=True, compare=False, repr=False)

    @abstractmethod
    def digest(self) -> str:
        """Hex BLAKE2b-128 of the content, 32 characters; paths and times do not count."""

    @abstractmethod
    def read_mask(self) -> Mask | None:
        """Read the mask, None where there is none; raises UnreadableImageError if it is broken."""

    @abstractmethod
    def load(self) -> tuple[Image.Image, Image.Image | None]:
        """Return the RGB image, and the class indices of its mask (mode 'L') or None.

        Raises UnreadableImageError if the file is missing or broken, or the two differ in size.
        """

    def class_image(self) -> Image.Image | None:
        """Return the class indices of the mask (mode 'L'), None without `labels`."""
        return None if self.labels is None else Image.fromarray(self.labels.plane())

    @abstractmethod
    def check(self) -> None:
        """Raise the UnreadableImageError that `load` would, in less time."""


@dataclass(frozen=True)
class FileSample(Sample):
    """An image in a file, with or without a mask in another file."""

    image_path: Path
    mask_path: Path | None = None

    def digest(self) -> str:
        """Hex BLAKE2b-128 of the image file's bytes, and of the mask's with its classes."""
        content = blake2b(digest_size=DIGEST_BYTES)
        with reading("image", self.image_path):
            content.update(self.image_path.read_bytes())
        if self.labels is not None:
            content.update(self.labels.digest().encode())
        return content.hexdigest()

    def read_mask(self) -> Mask | None:
        """Read the mask file, if there is one, with `masks.read_mask`."""
        return None if self.mask_path is None else read_mask(self.mask_path)

    def load(self) -> tuple[Image.Image, Image.Image | None]:
        """Decode the image with `read_image`."""
        image = read_image(self.image_path)
        self._check_size(image.size)
        return image, self.class_image()

    def check(self) -> None:
        """Read a JPEG at an eighth of its size, which still reads all its bytes."""
        with _opened("image", self.image_path) as image:
            size_px = image.size
            image.draft(None, (1, 1))
            image.load()
        self._check_size(size_px)

    def _check_size(self, size_px: tuple[int, int]) -> None:
        if self.labels is not None and self.labels.mask.size_px != size_px:
            width, height = self.labels.mask.size_px
            raise UnreadableImageError(
                f"The image {self.image_path} has {size_px[0]} x {size_px[1]} pixels, its mask "
                f"{width} x {height}: replace or remove one of them."
            )


def read_image(path: Path) -> Image.Image:
    """Decode any image file to RGB, at its stored size; an animation gives its first frame.

    An EXIF orientation is not applied, because masks are drawn over the stored pixels. Raises
    UnreadableImageError for a missing or broken file, or 32-bit floats of unknown range.
    """
    with _opened("image", path) as image:
        if image.mode == "I" or image.mode.startswith("I;16"):
            # Pillow's own conversion would clip nearly all 16-bit values to white.
            levels = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
            return Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
        if image.has_transparency_data:  # it becomes white, as a viewer shows it
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            return Image.alpha_composite(white, rgba).convert("RGB")
        return image.convert("RGB")


@contextmanager
def _opened(kind: str, path: Path) -> Iterator[Image.Image]:
    with reading(kind, path), Image.open(path) as image:
        if image.mode == "F":
            raise ValueError("32-bit floats of unknown range; store it with 8 or 16 bits")
        yield image


def list_images(folder: Path) -> list[FileSample]:
    """List the images in a folder and in all folders below it, sorted by path, without masks.

    A sample's name is its path below `folder` without the suffix ('cats/tom'); if two images would
    share a name, both keep the suffix. Hidden files and folders are left out. Raises SqueezeError
    if there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise SqueezeError(f"There is no folder {folder}: give a folder of images.")
    files = [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
    below = sorted(path.relative_to(folder) for path in files if path.is_file())
    below = [path for path in below if not any(part.startswith(".") for part in path.parts)]
    if not below:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SqueezeError(f"The folder {folder} holds no images: put some there ({suffixes}).")
    uses = Counter(path.with_suffix("") for path in below)
    names = [path if uses[path.with_suffix("")] > 1 else path.with_suffix("") for path in below]
    return [FileSample(n.as_posix(), folder / path) for n, path in zip(names, below, strict=True)]


def find_readable(
    samples: Sequence[Sample], known: Collection[str] = ()
) -> tuple[list[Sample], list[tuple[str, str]]]:
    """Check samples in threads, but for those whose digests are `known` from an earlier time.

    Returns the usable samples in their order, and (name, reason) for each that was skipped.
    """
    usable, skipped = [], []
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        reasons = pool.map(partial(_why_unusable, known=known), samples)
        for sample, reason in zip(samples, reasons, strict=True):
            if reason is None:
                usable.append(sample)
            else:
                skipped.append((sample.name.encode(errors="backslashreplace").decode(), reason))
    return usable, skipped


def _why_unusable(sample: Sample, known: Collection[str]) -> str | None:
    try:
        sample.name.encode()
        if not known or sample.digest() not in known:
            sample.check()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except UnreadableImageError as error:
        return str(error)
    return None
