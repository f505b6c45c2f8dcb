"""Samples: photographs and their trimaps, which are decoded when they are needed."""

import struct
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

from squeeze_cli.errors import SqueezeError

DIGEST_BYTES = 16
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)
# Exceptions that Pillow raises on broken files: OSError for files that are truncated or not
# identified, SyntaxError for PNG, and nearly all of the others for TIFF.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_TRIMAP_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


class UnreadableImageError(SqueezeError):
    """An image or trimap file is missing or broken, or the two do not fit together."""


@dataclass(frozen=True)
class Sample(ABC):
    """One photograph and its trimap; picklable, so that it can be sent to worker processes."""

    name: str  # unique in its data set, such as 'Abyssinian_100'

    @abstractmethod
    def digest(self) -> str:
        """Hex BLAKE2b-128 of the content, 32 characters; paths and times do not count."""

    @abstractmethod
    def load(self) -> tuple[Image.Image, Image.Image | None]:
        """Return the RGB image, and its trimap (mode 'L': 1 pet, 2 background, 3 border) or None.

        Raises UnreadableImageError if a file is missing or broken, or the two differ in size.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise the UnreadableImageError that `load` would, in less time."""


@dataclass(frozen=True)
class FileSample(Sample):
    """A photograph in a file, with or without a trimap in another file."""

    image_path: Path
    mask_path: Path | None = None

    def digest(self) -> str:
        """Hex BLAKE2b-128 of both files' bytes; raises UnreadableImageError if one is missing."""
        content = blake2b(digest_size=DIGEST_BYTES)
        for kind, path in (("image", self.image_path), ("trimap", self.mask_path)):
            if path is not None:
                with reading(kind, path):
                    data = path.read_bytes()
                # The length tells apart what would be the same bytes split between files elsewhere.
                content.update(len(data).to_bytes(8, "little"))
                content.update(data)
        return content.hexdigest()

    def load(self) -> tuple[Image.Image, Image.Image | None]:
        """Decode both files with `read_image` and `read_trimap`."""
        image = read_image(self.image_path)
        return image, self._trimap_of_size(image.size)

    def check(self) -> None:
        """Read a JPEG at an eighth of its size, which still reads all its bytes, and the trimap."""
        with _opened("image", self.image_path) as image:
            size_px = image.size
            image.draft(None, (1, 1))
            image.load()
        self._trimap_of_size(size_px)

    def _trimap_of_size(self, size_px: tuple[int, int]) -> Image.Image | None:
        trimap = None if self.mask_path is None else read_trimap(self.mask_path)
        if trimap is not None and trimap.size != size_px:
            raise UnreadableImageError(
                f"The image {self.image_path} has {size_px[0]} x {size_px[1]} pixels, its trimap "
                f"{trimap.size[0]} x {trimap.size[1]}: replace or remove one of them."
            )
        return trimap


def read_image(path: Path) -> Image.Image:
    """Decode any image file to RGB, at its stored size; an animation gives its first frame.

    An EXIF orientation is not applied, because trimaps are drawn over the stored pixels. Raises
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


def read_trimap(path: Path) -> Image.Image:
    """Decode a trimap to mode 'L', with the class values as stored.

    The classes of a palette image are its indices, not the brightness of its colours. Raises
    UnreadableImageError for a missing or broken file, or one with several channels.
    """
    with _opened("trimap", path) as trimap:
        if trimap.mode not in _TRIMAP_MODES:
            raise ValueError(f"mode {trimap.mode}, but a trimap has one channel of 1, 2 and 3")
        return Image.fromarray(np.clip(np.asarray(trimap), 0, 255).astype(np.uint8))


@contextmanager
def _opened(kind: str, path: Path) -> Iterator[Image.Image]:
    with reading(kind, path), Image.open(path) as image:
        if image.mode == "F":
            raise ValueError("32-bit floats of unknown range; store it with 8 or 16 bits")
        yield image


@contextmanager
def reading(kind: str, path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into UnreadableImageError."""
    try:
        yield
    except FileNotFoundError:
        raise UnreadableImageError(
            f"The {kind} {path} is missing: put it there or take it off the list."
        ) from None
    except _DECODER_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(
            f"Cannot read the {kind} {path} ({reason}): replace or remove it."
        ) from error


def list_images(folder: Path) -> list[FileSample]:
    """List the images in a folder and in all folders below it, sorted by path, without trimaps.

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
