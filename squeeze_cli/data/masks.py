"""Masks: the files that label every pixel of an image, read once and kept compressed in memory."""

import io
import zlib
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from squeeze_cli.data.reading import DIGEST_BYTES, read_content, reading

# Positions in a mask's list of values are bytes.
MOST_VALUES = 256
_INDEXED = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
# Pillow spreads grey values of 2 and 4 bits over 0..255: the factor by its name for the raw data,
# which may end in I or R for other orders of values and bits.
_SPREAD = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True)
class Mask:
    """The values of a mask as stored: classes are given to them by `data/labels.py`.

    Attributes:
        size_px: Width and height.
        values: The different values, increasing: those of an index mask (of a palette image its
            indices), or 0xRRGGBB where the mask is `coloured`.
        counts: Number of pixels of each value.
        coloured: Whether the values are colours.
        digest: Hex BLAKE2b-128 of the file, or of what the mask is drawn from.
        packed: The pixels' positions in `values`, row by row, compressed by zlib.
    """

    size_px: tuple[int, int]
    values: tuple[int, ...]
    counts: tuple[int, ...]
    coloured: bool
    digest: str
    packed: bytes = field(repr=False)

    @classmethod
    def of_values(cls, pixels: NDArray[np.integer], digest: str) -> Self:
        """Pack an array `[H, W]`; raises ValueError for more than `MOST_VALUES` values."""
        if pixels.max() < MOST_VALUES:
            return cls.of_bytes(Image.fromarray(pixels.astype(np.uint8)), digest)
        values, places, counts = np.unique(pixels, return_inverse=True, return_counts=True)
        if len(values) > MOST_VALUES:
            raise ValueError(f"{len(values)} different values: is it a photograph?")
        places = places.astype(np.uint8).reshape(pixels.shape)
        return cls._pack(places, values.tolist(), counts.tolist(), False, digest)

    @classmethod
    def of_bytes(cls, image: Image.Image, digest: str) -> Self:
        """Pack an image of mode 'L' or 'P', as `of_values` does, in less time."""
        counts = image.histogram()
        values = [value for value, count in enumerate(counts) if count]
        places = [0] * MOST_VALUES
        for place, value in enumerate(values):
            places[value] = place
        packed = zlib.compress(image.point(places).tobytes(), 1)
        found = tuple(counts[value] for value in values)
        return cls(image.size, tuple(values), found, False, digest, packed)

    @classmethod
    def of_colours(cls, image: Image.Image, digest: str) -> Self:
        """Pack an RGB image; raises ValueError for more than `MOST_VALUES` colours."""
        if (found := image.getcolors(MOST_VALUES)) is None:
            raise ValueError(f"more than {MOST_VALUES} different colours: is it a photograph?")
        counts = {int.from_bytes(bytes(rgb)): count for count, rgb in found}  # type: ignore[arg-type]
        values = sorted(counts)
        red, green, blue = np.moveaxis(np.asarray(image, np.uint32), -1, 0)
        places = np.searchsorted(values, red << 16 | green << 8 | blue).astype(np.uint8)
        return cls._pack(places, values, [counts[value] for value in values], True, digest)

    @classmethod
    def _pack(
        cls, places: NDArray[np.uint8], values: list[int], counts: list[int], coloured: bool,
        digest: str,
    ) -> Self:  # fmt: skip
        height, width = places.shape
        packed = zlib.compress(places.tobytes(), 1)
        return cls((width, height), tuple(values), tuple(counts), coloured, digest, packed)

    def plane(self, classes: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return `[H, W]` uint8 where each of `values` is replaced by its place in `classes`."""
        width, height = self.size_px
        positions = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        return np.array(classes, np.uint8)[positions].reshape(height, width)


def read_mask(path: Path) -> Mask:
    """Read a mask: grey, palette or 1-bit values as stored, up to 16 bits, or colours (RGB).

    Raises UnreadableImageError for a missing or broken file and for one that cannot hold classes:
    floats, JPEG, which changes values, transparent pixels, or more than `MOST_VALUES` values.
    """
    with reading("mask", path):
        content = read_content(path)
        digest = blake2b(content, digest_size=DIGEST_BYTES).hexdigest()
        with Image.open(io.BytesIO(content)) as image:
            return _read(image, digest)


def _read(file: ImageFile.ImageFile, digest: str) -> Mask:
    if file.format in ("JPEG", "MPO"):
        raise ValueError("JPEG changes the values of a mask; store it as PNG")
    arguments = (
        file.tile[0].args if file.tile else ""
    )  # the raw mode alone, or the first of several
    raw_mode = arguments if isinstance(arguments, str) or not arguments else arguments[0]
    spread = _SPREAD.get(str(raw_mode)[:3], 1)
    image: Image.Image = file
    if file.mode in ("LA", "PA", "RGBA"):
        if file.getchannel("A").getextrema() != (255, 255):
            raise ValueError("transparent pixels have no class; store it without transparency")
        image = file.convert("RGB") if file.mode == "RGBA" else file.getchannel(0)
    if image.mode == "RGB":
        return Mask.of_colours(image, digest)
    if image.mode not in _INDEXED:
        raise ValueError(f"mode {image.mode}, but a mask has one channel of values, or RGB colours")
    if image.mode in ("L", "P") and spread == 1:
        return Mask.of_bytes(image, digest)
    pixels = np.asarray(image).astype(np.int32)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("values beyond 0 to 65535")
    return Mask.of_values(pixels // spread, digest)
