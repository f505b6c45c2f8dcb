"""Image files of every kind to RGB, trimap files to their class values."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from squeeze_cli.errors import SqueezeError

# What Pillow's decoders raise on broken files, besides OSError (of which UnidentifiedImageError and
# "image file is truncated" are kinds): PNG gives SyntaxError, TIFF nearly all of the others.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_TRIMAP_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


class UnreadableImageError(SqueezeError):
    """An image or trimap file that is missing, broken, or not what its partner needs."""


def read_image(path: Path) -> Image.Image:
    """Decode any image file to RGB, at its stored size and orientation.

    - Transparent pixels are laid on white: their own colour is arbitrary (often black), and white
      is what a viewer shows.
    - 16-bit grey keeps its upper 8 bits; Pillow's own conversion would clip at 255, which is nearly
      always white.
    - An EXIF orientation is not applied: trimaps are drawn over the stored pixels.
    - Of an animation the first frame counts.

    Raises:
        UnreadableImageError: missing, truncated or broken file, or 32-bit floats of unknown range.
    """
    with _opened(path, "image") as image:
        return _to_rgb(image)


def read_trimap(path: Path) -> Image.Image:
    """Decode a trimap to mode 'L', the class values as stored.

    Of a palette image the indices are the classes, so they are kept; a conversion to grey would
    give the brightness of the palette's colours.

    Raises:
        UnreadableImageError: missing or broken file, or one with several channels.
    """
    with _opened(path, "trimap") as trimap:
        if trimap.mode not in _TRIMAP_MODES:
            raise ValueError(f"mode {trimap.mode}, but a trimap has one channel of 1, 2 and 3")
        if trimap.mode == "L":
            return trimap.copy()
        return Image.fromarray(np.clip(np.asarray(trimap), 0, 255).astype(np.uint8))


def check_image(path: Path) -> tuple[int, int]:
    """Decode an image as cheaply as finds a truncation, and give its (width, height) in pixels.

    A JPEG is decoded at an eighth of its size: all its bytes are still read, in less time.

    Raises:
        UnreadableImageError: as `read_image` would.
    """
    with _opened(path, "image") as image:
        size_px: tuple[int, int] = image.size
        _refuse_floats(image)
        image.draft(None, (1, 1))
        image.load()
        return size_px


def require_same_size(image_path: Path, image: tuple[int, int], trimap: tuple[int, int]) -> None:
    """Raise UnreadableImageError when an image and its trimap differ in (width, height)."""
    if image != trimap:
        raise UnreadableImageError(
            f"The image {image_path} has {image[0]} x {image[1]} pixels, its trimap "
            f"{trimap[0]} x {trimap[1]}: replace or remove one of them."
        )


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise UnreadableImageError(
            f"The {kind} {path} is missing: put it there or take it off the list."
        ) from None
    except _DECODER_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(
            f"Cannot read the {kind} {path} ({reason}): replace or remove it."
        ) from error


def _refuse_floats(image: Image.Image) -> None:
    if image.mode == "F":
        raise ValueError("32-bit floats, whose range is not known; store it with 8 or 16 bits")


def _to_rgb(image: Image.Image) -> Image.Image:
    _refuse_floats(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        levels = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
        return Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
