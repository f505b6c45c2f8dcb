"""Masks: files with a label per pixel of an image, read once and kept compressed in memory."""

import io
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageSequence

from squeeze_cli.data.encoded import find_orientation
from squeeze_cli.data.reading import hex_digest, read_bytes, reading

# A pixel's position in its mask's list of values is one byte.
MOST_VALUES = 256
_INDEXED = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
# Pillow multiplies grey values of 2 and 4 bits by these factors, to fill 0..255. The keys are the first
# letters of Pillow's raw mode; an R after them means another order of bits.
_SPREAD = {"L;2": 85, "L;4": 17}
# Formats that may change values; the file does not tell whether they did.
_LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF")


@dataclass(frozen=True)
class Mask:
    """The stored values of a mask, to which `data/labels.py` assigns classes.

    Attributes:
        size_px: Width and height.
        values: The different values, increasing: of an index mask its values (of a palette image the
            indices), of a `coloured` mask 0xRRGGBB.
        counts: Number of pixels of each value.
        coloured: Whether the values are colours.
        digest: Hex BLAKE2b-128 of the file, or of the seed, index and size of a drawn mask.
        packed: The pixels' positions in `values`, row by row, compressed by zlib.
        drawn: Of a palette image, each value with its colour 0xRRGGBB, unless the palette repeats it.
    """

    size_px: tuple[int, int]
    values: tuple[int, ...]
    counts: tuple[int, ...]
    coloured: bool
    digest: str
    packed: bytes = field(repr=False)
    drawn: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of_values(cls, pixels: NDArray[np.integer], digest: str) -> Self:
        """Pack an array `[H, W]`; raises ValueError for more than `MOST_VALUES` values."""
        if pixels.max() < MOST_VALUES:
            return cls.of_bytes(Image.fromarray(pixels.astype(np.uint8)), digest)
        values = np.unique(pixels).tolist()
        if len(values) > MOST_VALUES:
            raise ValueError(f"{len(values)} different values: is it a photograph?")
        return cls._pack(pixels, values, False, digest)

    @classmethod
    def of_bytes(cls, image: Image.Image, digest: str) -> Self:
        """Pack an image of mode 'L' or 'P', with the result of `of_values` in less time."""
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
        values = sorted(int.from_bytes(bytes(rgb)) for _, rgb in found)  # type: ignore[arg-type]
        red, green, blue = np.moveaxis(np.asarray(image, np.uint32), -1, 0)
        return cls._pack(red << 16 | green << 8 | blue, values, True, digest)

    @classmethod
    def _pack(
        cls, pixels: NDArray[np.integer], values: list[int], coloured: bool, digest: str
    ) -> Self:
        places = np.searchsorted(values, pixels).astype(np.uint8)
        counts = np.bincount(places.ravel()).tolist()
        height, width = places.shape
        packed = zlib.compress(places.tobytes(), 1)
        return cls((width, height), tuple(values), tuple(counts), coloured, digest, packed)

    def plane(self, classes: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return `[H, W]` uint8 in which `classes[i]` replaces `values[i]`."""
        width, height = self.size_px
        positions = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        return np.array(classes, np.uint8)[positions].reshape(height, width)


def read_mask(path: Path) -> Mask:
    """Read a mask: grey, palette or 1-bit values as stored, up to 16 bits, or colours (RGB).

    Raises UnreadableImageError for a missing or broken file, and for a file that cannot hold classes:
    floats, transparent pixels, more than `MOST_VALUES` values, several frames, or a format that changes
    values when it is written (JPEG) or read (some PPM).
    """
    with reading("mask", path):
        content = read_bytes(path)
        with Image.open(io.BytesIO(content)) as image:
            if getattr(image, "n_frames", 1) > 1:
                _require_one_frame(content)
            return _read(image, content, hex_digest(content))


def _require_one_frame(content: bytes) -> None:
    """Raise ValueError for further frames of the same size, as in a stack with a mask per class.

    Smaller copies of an image in the same file are not its content.
    """
    with Image.open(io.BytesIO(content)) as image:
        sizes = [frame.size for frame in ImageSequence.Iterator(image)]
    if (frames := sizes.count(sizes[0])) > 1:
        raise ValueError(f"it has {frames} frames; store one with a value for each class")


def _reason_against(
    file: ImageFile.ImageFile, raw_mode: str, argument: object, content: bytes
) -> str | None:
    """Return why Pillow's values may differ from the mask's, or None where they are equal.

    `raw_mode` is Pillow's name of the data in the file, `argument` the next argument of its decoder.
    """
    kind, mode = str(file.format), file.mode
    lossy = kind in _LOSSY or (kind == "WEBP" and b"VP8L" not in content[12:16])
    if lossy or file.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        return f"{'JPEG' if kind == 'TIFF' else kind} changes the values of a mask"
    if kind == "PPM" and mode != "1" and argument not in (None, 65535 if mode == "I" else 255):
        return f"values up to {argument} are scaled when it is read"
    white_is_0 = getattr(file, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0
    if white_is_0 or "I" in raw_mode.partition(";")[2]:
        return "its lowest value is white, so that programs disagree on its values"
    if ";16" in raw_mode and kind in ("PNG", "TIFF") and not mode.startswith("I"):
        return "only 8 of the 16 bits of its colours are read"
    # Pillow derives the bits per pixel of a BMP from its palette, if this has greys only.
    if kind in ("BMP", "DIB") and mode in ("1", "L") and isinstance(argument, int):
        row_bits = file.width * (1 if mode == "1" else 8)
        if argument != (row_bits + 31) // 32 * 4:
            return "its palette has fewer greys than its values could be"
    if kind == "PNG" and find_orientation(file, content) != 1:
        return "some programs apply its EXIF orientation, others do not"
    return None


def _read(file: ImageFile.ImageFile, content: bytes, digest: str) -> Mask:
    arguments = file.tile[0].args if file.tile else None
    raw, *others = arguments if isinstance(arguments, tuple) else (arguments,)
    if reason := _reason_against(file, str(raw), others[0] if others else None, content):
        raise ValueError(f"{reason}; store it as PNG, with 8 or 16 bits per pixel")
    spread = _SPREAD.get(str(raw)[:3], 1)
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
        mask = Mask.of_bytes(image, digest)
        return replace(mask, drawn=_drawn(image.getpalette() or [], mask.values))
    pixels = np.asarray(image).astype(np.int32)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("values beyond 0 to 65535")
    return Mask.of_values(pixels // spread, digest)


def _drawn(palette: list[int], values: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return the values with the colours that a palette `[R, G, B, R, ...]` gives to them alone.

    Padding behind the largest value, and the palette in which each grey is its own index, tell nothing.
    """
    used = palette[: 3 * (values[-1] + 1)]
    colours = [int.from_bytes(bytes(used[i : i + 3])) for i in range(0, len(used), 3)]
    uses = Counter(() if colours == [0x010101 * i for i in range(len(colours))] else colours)
    return tuple((v, colours[v]) for v in values if v < len(colours) and uses[colours[v]] == 1)
