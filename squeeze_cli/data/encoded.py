"""Encoded images: the bytes of a file are read once, and decoded where the pixels are needed."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from squeeze_cli.data.reading import (
    DECODER_ERRORS,
    UnreadableImageError,
    hex_digest,
    read_bytes,
    reading,
)

# EXIF orientations that exchange width and height.
_ON_ITS_SIDE = (5, 6, 7, 8)
# Marks of a PNG that may have an orientation: a chunk of EXIF, or a text of XMP or of ImageMagick.
_PNG_MARKS = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type")


class ImageFacts(NamedTuple):
    """Digest and size of an image that was read.

    `digest` is the hex BLAKE2b-128 of the file, with a mark for an applied orientation; `size_px` is
    width and height. An image is `ambiguous` if its EXIF orientation is applied, but its mask would fit
    without it, too.
    """

    digest: str
    size_px: tuple[int, int]
    ambiguous: bool = False


@dataclass(frozen=True)
class ReadImage(ABC):
    """An image that was read, but not decoded."""

    facts: ImageFacts

    @abstractmethod
    def decode(self) -> Image.Image:
        """Return the RGB image; raises UnreadableImageError if it is broken."""

    def check(self) -> None:  # noqa: B027 - a drawn image is never broken
        """Raise UnreadableImageError where `decode` would; this takes less time."""


@dataclass(frozen=True)
class EncodedImage(ReadImage):
    """The bytes of an image file; `turned` is whether its EXIF orientation is applied.

    `label` is the name of the image in messages.
    """

    label: str
    content: bytes = field(repr=False)
    turned: bool

    def decode(self) -> Image.Image:
        """Decode to RGB: the first frame of an animation; transparent pixels become white."""
        with reading("image", self.label), _opened(self.content) as image:
            return _as_rgb(ImageOps.exif_transpose(image) if self.turned else image)

    def check(self) -> None:
        """Decode a JPEG at an eighth of its size, which still reads all its bytes."""
        with reading("image", self.label), _opened(self.content) as image:
            image.draft(None, (1, 1))
            image.load()
            if image.mode.startswith("I"):
                _upper_bits(image)


def read_image(
    place: Path | str, mask_size_px: tuple[int, int] | None = None, start: int = 0,
    size: int | None = None, label: str = "",
) -> EncodedImage:  # fmt: skip
    """Read an image of any format that Pillow decodes from a file, or a part of it as `read_bytes` does.

    An EXIF orientation is applied, as viewers do, unless only the stored width and height equal
    `mask_size_px`, the size of the image's mask. `label` names the image in messages, by default its
    place.

    Raises UnreadableImageError for a missing or broken file, 32-bit floats of unknown range, or an
    image of another size than its mask.
    """
    label = label or str(place)
    with reading("image", label):
        content = read_bytes(place, start, size)
        with _opened(content) as image:
            size_px, orientation = image.size, find_orientation(image, content)
    stored_px, turned = size_px, orientation != 1
    if orientation in _ON_ITS_SIDE:
        size_px = (size_px[1], size_px[0])
    ambiguous = turned and stored_px == size_px == mask_size_px
    if stored_px == mask_size_px != size_px:
        size_px, turned = stored_px, False
    if mask_size_px is not None and mask_size_px != size_px:
        raise UnreadableImageError(
            f"The image {label} has {size_px[0]} x {size_px[1]} pixels, its mask {mask_size_px[0]} x "
            f"{mask_size_px[1]}: replace or remove one of them."
        )
    digest = hex_digest(content)
    facts = ImageFacts(f"{digest}-turned" if turned else digest, size_px, ambiguous)
    return EncodedImage(facts, label, content, turned)


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    with Image.open(io.BytesIO(content)) as image:
        if image.mode == "F":
            raise ValueError("32-bit floats of unknown range; store it with 8 or 16 bits")
        yield image


def find_orientation(image: Image.Image, content: bytes) -> int:
    """Return the orientation of EXIF or XMP that is still to be applied, from 1 (none) to 8.

    An orientation that cannot be read, or is not defined, counts as none.
    """
    # Pillow applies a TIFF's orientation itself; in a PNG it decodes all pixels to look for EXIF.
    if image.format == "TIFF":
        return 1
    if image.format == "PNG" and not any(mark in content for mark in _PNG_MARKS):
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODER_ERRORS:
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _upper_bits(image).convert("RGB")
    if image.has_transparency_data:  # white, as in a viewer
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _upper_bits(image: Image.Image) -> Image.Image:
    """Return the upper 8 of the 16 bits of an image of whole numbers, as grey.

    Pillow's own conversion would clip nearly all of its values to white. Raises ValueError for values
    that 16 bits do not hold, and for values of up to 12 bits, which would all be nearly black.
    """
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535 or 0 < high < 4096:
        raise ValueError(f"values from {low} to {high} in 16 bits; scale them to 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))
