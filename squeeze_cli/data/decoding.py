"""Decoding of image files to RGB, and of trimap files to their class values."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from squeeze_cli.errors import SqueezeError

# Exceptions that Pillow raises on broken files: OSError for files that are truncated or not
# identified, SyntaxError for PNG, and nearly all of the others for TIFF.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_TRIMAP_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


class UnreadableImageError(SqueezeError):
    """An image or trimap file is missing or broken, or the two do not fit together."""


def read_image(path: Path) -> Image.Image:
    """Decode any image file to RGB, at its stored size.

    - Transparent pixels become white, as a viewer shows them: their stored colour is arbitrary.
    - 16-bit grey keeps its upper 8 bits, whereas Pillow's own conversion would clip nearly all
      values to white.
    - An EXIF orientation is not applied, because trimaps are drawn over the stored pixels.
    - An animation gives its first frame.

    Raises:
        UnreadableImageError: missing, truncated or broken file, or 32-bit floats of unknown range.
    """
    with _opened(path, "image") as image:
        return _to_rgb(image)


def read_trimap(path: Path) -> Image.Image:
    """Decode a trimap to mode 'L', with the class values as stored.

    The classes of a palette image are its indices, not the brightness of its colours. Raises
    UnreadableImageError for a missing or broken file, or one with several channels.
    """
    with _opened(path, "trimap") as trimap:
        if trimap.mode not in _TRIMAP_MODES:
            raise ValueError(f"mode {trimap.mode}, but a trimap has one channel of 1, 2 and 3")
        if trimap.mode == "L":
            return trimap.copy()
        return Image.fromarray(np.clip(np.asarray(trimap), 0, 255).astype(np.uint8))


def check_image(path: Path) -> tuple[int, int]:
    """Return the (width, height) of an image in pixels; raises the errors of `read_image`.

    A JPEG is decoded at an eighth of its size, which still reads all its bytes.
    """
    with _opened(path, "image") as image:
        size_px: tuple[int, int] = image.size
        image.draft(None, (1, 1))
        image.load()
        return size_px


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            if image.mode == "F":
                raise ValueError("32-bit floats of unknown range; store it with 8 or 16 bits")
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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        levels = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
        return Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
