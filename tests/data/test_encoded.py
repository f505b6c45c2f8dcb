"""Image files: what their pixels become, which way up they are, and what is said of broken ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from squeeze_cli.data.encoded import read_image
from squeeze_cli.data.reading import UnreadableImageError
from tests.pets import cut, noise_image

# How an upright picture is stored so that an EXIF orientation brings it back.
STORED = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip
UPRIGHT = noise_image(23, 17)


def save(path: Path, orientation: int, picture: Image.Image = UPRIGHT) -> Path:
    """Save a picture as a camera would that was held so."""
    method = STORED[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = picture if method is None else picture.transpose(method)
    stored.save(path, exif=exif, quality=100, subsampling=0)
    return path


def decoded(path: Path) -> np.ndarray:
    return np.asarray(read_image(path).decode())


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK"])
def test_every_kind_of_image_becomes_rgb_of_the_same_size(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    noise_image(23, 17, mode=mode).save(path)
    image = read_image(path)
    assert image.facts.size_px == image.decode().size == (23, 17)
    assert image.decode().mode == "RGB"


def test_transparent_pixels_are_white_whatever_their_colour(tmp_path: Path) -> None:
    rgba = np.zeros((5, 9, 4), dtype=np.uint8)
    rgba[:, :4] = (10, 20, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixels = decoded(tmp_path / "a.png")
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[4, 8].tolist() == [255, 255, 255]


def test_transparent_palette_colour_is_white(tmp_path: Path) -> None:
    palette = Image.fromarray(np.tile(np.arange(4, dtype=np.uint8), (3, 1)), mode="L").convert("P")
    palette.save(tmp_path / "a.png", transparency=2)
    pixels = decoded(tmp_path / "a.png")
    assert pixels[0, 2].tolist() == [255, 255, 255]
    assert pixels[0, 3].tolist() == [3, 3, 3]


def test_16_bit_grey_keeps_its_upper_bits_instead_of_clipping(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 7), 0x8012, dtype=np.uint16)).save(tmp_path / "a.png")
    assert decoded(tmp_path / "a.png")[0, 0].tolist() == [0x80, 0x80, 0x80]


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 4095), (-5, 4000), (0, 70_000)])
def test_values_of_other_than_16_bits_are_refused_with_the_fix(
    low: int, high: int, tmp_path: Path
) -> None:
    Image.fromarray(np.array([[low, high, 1]], dtype=np.int32)).save(tmp_path / "a.tiff")
    for use in ("decode", "check"):
        with pytest.raises(UnreadableImageError, match=f"a.tiff .values from {low} to {high} in"):
            getattr(read_image(tmp_path / "a.tiff"), use)()
    Image.fromarray(np.zeros((3, 7), np.uint16)).save(tmp_path / "black.png")
    assert not decoded(tmp_path / "black.png").any()


def test_float_images_are_refused_with_the_fix(tmp_path: Path) -> None:
    Image.fromarray(np.ones((3, 7), dtype=np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UnreadableImageError, match="8 or 16 bits"):
        read_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp", "gif"])
def test_truncated_file_names_itself_in_one_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    noise_image(67, 41).save(path)
    cut(path)
    for use in ("decode", "check"):
        with pytest.raises(UnreadableImageError, match=str(path)) as caught:
            getattr(read_image(path), use)()
        assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_special_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"gone\.jpg is missing"):
        read_image(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImageError, match=r"a\.jpg .it is not a regular file"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", list(STORED))
def test_an_orientation_is_applied_where_there_is_no_mask(
    suffix: str, orientation: int, tmp_path: Path
) -> None:
    picture = Image.new("RGB", (32, 16), (200, 30, 30))
    picture.paste((20, 20, 200), (0, 0, 16, 8))  # blue in the upper left quarter
    image = read_image(save(tmp_path / f"a.{suffix}", orientation, picture))
    assert image.facts.size_px == image.decode().size == (32, 16)
    difference = np.abs(np.asarray(image.decode()).astype(int) - np.asarray(picture))
    assert difference.mean() < 5


@pytest.mark.parametrize("orientation", list(STORED))
@pytest.mark.parametrize("height_px", [17, 23])
def test_an_orientation_that_a_mask_does_not_decide_is_ambiguous(
    orientation: int, height_px: int, tmp_path: Path
) -> None:
    """One that exchanges the sides is decided, unless the picture is a square."""
    path = save(tmp_path / "a.jpg", orientation, noise_image(23, height_px))
    with Image.open(path) as file:
        with_mask = read_image(path, file.size)
    undecided = height_px == 23 or orientation < 5
    assert with_mask.facts.ambiguous == (orientation > 1 and undecided)
    alone = read_image(path)
    assert not alone.facts.ambiguous
    assert (with_mask.facts.digest == alone.facts.digest) == (orientation == 1 or undecided)


@pytest.mark.parametrize("orientation", list(STORED))
def test_with_a_mask_the_size_decides(orientation: int, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", orientation)
    with Image.open(path) as file:
        stored = np.asarray(file.convert("RGB"))
    as_stored = read_image(path, (stored.shape[1], stored.shape[0]))
    assert np.array_equal(as_stored.decode(), stored if orientation >= 5 else UPRIGHT)
    if orientation >= 5:
        upright = read_image(path, (23, 17))
        assert np.array_equal(upright.decode(), UPRIGHT)
        assert upright.facts.digest != as_stored.facts.digest
        assert upright.facts == read_image(path).facts
    with pytest.raises(UnreadableImageError, match="has 23 x 17 pixels, its mask 24 x 17"):
        read_image(path, (24, 17))


def test_an_orientation_of_xmp_or_a_raw_profile_in_a_png_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    digits = exif.tobytes().hex()
    xmp, raw = PngInfo(), PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>', zip=True)
    raw.add_text("Raw profile type exif", f"\nexif\n{len(digits) // 2:8d}\n{digits}\n", zip=True)
    for name, notes in (("xmp", xmp), ("raw", raw)):
        UPRIGHT.transpose(STORED[6]).save(tmp_path / f"{name}.png", pnginfo=notes)
        read = read_image(tmp_path / f"{name}.png")
        assert read.facts.size_px == (23, 17)
        assert np.array_equal(read.decode(), UPRIGHT)


def test_exif_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    for name, content in (("a", b"Exif\0\0nonsense"), ("b", b"Exif\0\0MM\0*\xff\xff\xff\xff")):
        UPRIGHT.save(tmp_path / f"{name}.jpg", exif=content)
        assert read_image(tmp_path / f"{name}.jpg").decode().size == (23, 17)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 99
    UPRIGHT.save(tmp_path / "c.jpg", exif=exif)
    assert read_image(tmp_path / "c.jpg").facts.size_px == (23, 17)


def test_digest_is_of_the_content_and_of_nothing_else(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("same", 1), ("other", 2)):
        noise_image(23, 17, seed).save(tmp_path / f"{name}.png")
    digests = [read_image(tmp_path / f"{n}.png").facts.digest for n in ("a", "same", "other")]
    assert len(digests[0]) == 32
    assert digests[0] == digests[1] != digests[2]


def test_a_file_that_is_too_large_for_an_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UnreadableImageError, match=r"sparse\.jpg \(it has more than 2 GiB\)"):
        read_image(tmp_path / "sparse.jpg")
