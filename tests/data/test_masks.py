from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import ExifTags, Image

from squeeze_cli.config.classes import ClassTable, read_classes
from squeeze_cli.data.labels import detect_classes, label_masks
from squeeze_cli.data.masks import Mask, read_mask
from squeeze_cli.data.reading import UnreadableImageError
from squeeze_cli.errors import SqueezeError
from tests.pets import noise_image

VALUES = np.array([[0, 3, 3], [7, 0, 3]])
PALETTE = [*(v for i in range(256) for v in (i, 255 - i, i // 2))]


def palette_image(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8), mode="P")
    image.putpalette(PALETTE)
    return image


def rgb(values: np.ndarray) -> Image.Image:
    return palette_image(values).convert("RGB")


KINDS: dict[str, Callable[[], Image.Image]] = {
    "grey.png": lambda: Image.fromarray(VALUES.astype(np.uint8)),
    "palette.png": lambda: palette_image(VALUES),
    "deep.png": lambda: Image.fromarray(VALUES.astype(np.uint16)),
    "deep.tif": lambda: Image.fromarray(VALUES.astype(np.int32)),
    "grey.bmp": lambda: Image.fromarray(VALUES.astype(np.uint8)),
    "opaque.png": lambda: Image.fromarray(VALUES.astype(np.uint8)).convert("LA"),
}


@pytest.mark.parametrize("name", KINDS)
def test_values_are_read_as_stored_from_every_kind_of_file(name, tmp_path):
    KINDS[name]().save(tmp_path / name)
    mask = read_mask(tmp_path / name)
    assert mask.size_px == (3, 2)
    assert (mask.values, mask.counts, mask.coloured) == ((0, 3, 7), (2, 3, 1), False)
    assert mask.plane((0, 1, 2)).tolist() == [[0, 1, 1], [2, 0, 1]]


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_few_bits_keep_their_values(bits, mode, tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 8 // bits, 1, bits, {"L": 0, "P": 3}[mode], 0, 0, 0)
    row = {1: 0b01100000, 2: 0b00100111, 4: 0x3F}[bits]
    content = [chunk(b"IHDR", header)]
    content += [chunk(b"PLTE", bytes(PALETTE[: 3 * 2**bits]))] if mode == "P" else []
    content += [chunk(b"IDAT", zlib.compress(bytes([0, row]))), chunk(b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(content))
    mask = read_mask(tmp_path / "a.png")
    expected = {1: [0, 1, 1, 0, 0, 0, 0, 0], 2: [0, 2, 1, 3], 4: [3, 15]}[bits]
    assert as_stored(mask) == [expected]


def as_stored(mask: Mask) -> list[list[int]]:
    return np.array(mask.values)[mask.plane(tuple(range(len(mask.values))))].tolist()


@pytest.mark.parametrize(("bits", "row"), [(2, 0b00100111), (4, 0x3F)])
def test_few_bits_of_a_tiff_keep_their_values(bits, row, tmp_path):
    """Width, height, bits, no compression, black is 0, offset, rows per strip, bytes."""
    width = 8 // bits
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8), (278, 1), (279, 1)]
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = b"II*\0" + struct.pack("<I", 10) + bytes([row, 0])
    content += struct.pack("<H", len(tags)) + fields + struct.pack("<I", 0)
    (tmp_path / "a.tif").write_bytes(content)
    assert as_stored(read_mask(tmp_path / "a.tif")) == [{2: [0, 2, 1, 3], 4: [3, 15]}[bits]]


def test_a_lossless_webp_has_its_colours(tmp_path):
    rgb(VALUES).save(tmp_path / "a.webp", lossless=True)
    assert read_mask(tmp_path / "a.webp").values == (0x00FF00, 0x03FC01, 0x07F803)


def test_16_bit_values_and_colours_are_not_cut(tmp_path):
    Image.fromarray(np.array([[1000, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").values == (1000, 65535)
    rgb(VALUES).save(tmp_path / "b.png")
    mask = read_mask(tmp_path / "b.png")
    assert (mask.values, mask.counts, mask.coloured) == (
        (0x00FF00, 0x03FC01, 0x07F803),
        (2, 3, 1),
        True,
    )
    assert mask.plane((0, 1, 2)).tolist() == [[0, 1, 1], [2, 0, 1]]
    rgb(VALUES).convert("RGBA").save(tmp_path / "c.png")
    assert read_mask(tmp_path / "c.png").values == mask.values


@pytest.mark.parametrize(
    ("name", "image", "reason"),
    [
        ("a.jpg", Image.fromarray(VALUES.astype(np.uint8)), "JPEG changes .* PNG"),
        ("a.png", noise_image(40, 30), "more than 256 different colours: is it a photograph"),
        ("a.png", Image.new("RGBA", (3, 2), (0, 0, 0, 7)), "transparent"),
        ("a.tif", Image.new("F", (3, 2)), "mode F"),
        ("a.tif", Image.fromarray(np.arange(-1, 5, dtype=np.int32).reshape(2, 3)), "0 to 65535"),
        ("a.tif", Image.fromarray(np.arange(300, dtype=np.uint16)[None]), "300 different values"),
    ],
)
def test_files_that_hold_no_classes_say_why(name, image, reason, tmp_path):
    image.save(tmp_path / name)
    with pytest.raises(UnreadableImageError, match=rf"mask .*{name} .*{reason}"):
        read_mask(tmp_path / name)
    with pytest.raises(UnreadableImageError, match="missing"):
        read_mask(tmp_path / "other.png")


def png_of_16_bits(colour_type: int, channels: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    values = np.full((6, channels), 0xFFFF, ">u2")
    values[:, 0] = [256, 256, 257, 257, 258, 258]  # the high bytes are equal
    data = b"".join(b"\0" + values[row : row + 3].tobytes() for row in (0, 3))
    header = struct.pack(">IIBBBBB", 3, 2, 16, colour_type, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def written(image: Image.Image, **options: object) -> bytes:
    content = BytesIO()
    image.save(content, **options)
    return content.getvalue()


def bmp_of_two_greys(bits: int) -> bytes:
    """Two rows of 16 pixels, of the values 0 and 1."""
    row = {4: b"\x01\x10" * 4, 8: b"\0\1\1\0" * 4}[bits]
    header = struct.pack("<IiiHHIIiiII", 40, 16, 2, 1, bits, 0, 2 * len(row), 0, 0, 2, 0)
    start = 14 + len(header) + 8
    content = struct.pack("<IHHI", start + 2 * len(row), 0, 0, start) + header
    return b"BM" + content + bytes([0, 0, 0, 0, 255, 255, 255, 0]) + row + row


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


GREY = Image.fromarray(VALUES.astype(np.uint8))
ONE_BIT = Image.fromarray(VALUES == 3)
NO_MASKS = {
    "scaled.pgm": (b"P5 3 2 7\n" + bytes([0, 3, 3, 7, 0, 3]), "values up to 7 are scaled"),
    "plain.pgm": (b"P2 3 2 7\n0 3 3 7 0 3\n", "values up to 7 are scaled"),
    "deep.pgm": (b"P5 3 2 300\n" + VALUES.astype(">u2").tobytes(), "values up to 300 are scaled"),
    "deep.ppm": (b"P6 1 1 65535\n" + bytes(6), "values up to 65535 are scaled"),
    "scaled.ppm": (b"P3 2 1 2\n0 1 2 2 1 0\n", "values up to 2 are scaled"),
    "bits.pbm": (b"P4 3 2\n" + bytes([0x60, 0x20]), "its lowest value is white"),
    "plain.pbm": (b"P1 3 2\n0 1 1 0 0 1\n", "its lowest value is white"),
    "white.tif": (written(GREY, format="TIFF", tiffinfo={262: 0}), "its lowest value is white"),
    "fax.tif": (
        written(ONE_BIT, format="TIFF", compression="group4", tiffinfo={262: 0}),
        "is white",
    ),
    "jpeg.tif": (written(GREY, format="TIFF", compression="jpeg"), "JPEG changes"),
    "lossy.webp": (written(rgb(VALUES), format="WEBP"), "WEBP changes"),
    "a.jp2": (written(GREY, format="JPEG2000"), "JPEG2000 changes"),
    "rgb.png": (png_of_16_bits(2, 3), "8 of the 16 bits"),
    "la.png": (png_of_16_bits(4, 2), "8 of the 16 bits"),
    "rgba.png": (png_of_16_bits(6, 4), "8 of the 16 bits"),
    "four.bmp": (bmp_of_two_greys(4), "its palette has fewer greys"),
    "eight.bmp": (bmp_of_two_greys(8), "its palette has fewer greys"),
    "turned.png": (written(GREY, format="PNG", exif=turned(3)), "EXIF orientation"),
}


if ".avif" in Image.registered_extensions():  # Pillow has written it since 11.3
    NO_MASKS["a.avif"] = (written(rgb(VALUES), format="AVIF"), "AVIF changes")


@pytest.mark.parametrize("name", NO_MASKS)
def test_files_whose_values_are_not_surely_those_meant_are_refused(name, tmp_path):
    content, reason = NO_MASKS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImageError, match=rf"mask .*{name} .*{reason}.*store it as PNG"):
        read_mask(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pgm", b"P5 3 2 255\n" + VALUES.astype(np.uint8).tobytes()),
        ("b.pgm", b"P5 3 2 65535\n" + VALUES.astype(">u2").tobytes()),
        ("c.pgm", b"P2 3 2 255\n0 3 3 7 0 3\n"),
        ("d.pgm", b"P2 3 2 65535\n0 3 3 7 0 3\n"),
        ("upright.png", written(GREY, format="PNG", exif=turned(1))),
        ("turned.tif", written(GREY.rotate(180), format="TIFF", tiffinfo={274: 3})),
        ("zip.tif", written(GREY, format="TIFF", compression="tiff_adobe_deflate")),
    ],
)
def test_the_same_formats_without_a_scale_or_a_turn_are_read(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert as_stored(read_mask(tmp_path / name)) == VALUES.tolist()


def mask_of(*values: int) -> Mask:
    return Mask.of_values(np.array([values], dtype=np.uint16), "")


def table(content: object) -> ClassTable:
    read = read_classes(content)
    assert isinstance(read, ClassTable)
    return read


def test_detected_classes_are_the_values_in_order():
    found = detect_classes([mask_of(9, 0, 255), mask_of(0, 300)], ignore=(255,))
    assert (found.values, found.ignore) == ([0, 9, 300], (255,))
    assert found.names == ["class 0", "class 9", "class 300"]


@pytest.mark.parametrize(
    ("masks", "ignore", "reason"),
    [
        ([mask_of(0, 255)], (255,), r"0, 255, of which 255 is ignored.*--ignore-index -1"),
        ([mask_of(4)], (), r"values found: 4\)"),
        ([mask_of(*range(256))], (255,), "255 different values from 0 to 254.*photographs"),
    ],
)
def test_values_that_are_no_classes_are_an_error(masks, ignore, reason):
    with pytest.raises(SqueezeError, match=reason):
        detect_classes(masks, ignore)


def test_coloured_masks_ask_for_a_table(tmp_path):
    rgb(VALUES).save(tmp_path / "b.png")
    with pytest.raises(SqueezeError, match=r"#00ff00, #03fc01, #07f803.*--classes FILE"):
        detect_classes([read_mask(tmp_path / "b.png")], ())


def test_classes_follow_the_table_and_are_counted():
    classes = table({7: "cat", 0: "other", "ignore": [255]})
    labelled = label_masks([("a", mask_of(0, 7, 7, 255)), ("b", mask_of(0))], classes, 0, "")
    assert [labels.plane().tolist() for labels in labelled.labels] == [[[1, 0, 0, 255]], [[1]]]
    assert (labelled.pixels, labelled.images) == ((2, 2), (1, 2))


def test_colours_follow_the_table(tmp_path):
    rgb(VALUES).save(tmp_path / "b.png")
    mask = read_mask(tmp_path / "b.png")
    fields = {1: {"name": "a", "colour": "#07f803"}, 2: {"name": "b", "colour": [0, 255, 0]}}
    labelled = label_masks([("b", mask)], table({**fields, "ignore": [[3, 252, 1]]}), 0, "")
    assert labelled.labels[0].plane().tolist() == [[1, 255, 255], [0, 1, 255]]
    with pytest.raises(
        SqueezeError, match=r"no class: #03fc01 in 1 image; expected are #07f803, #00ff00"
    ):
        label_masks([("b", mask)], table(fields), 0, "")


def drawn(path, values: list[int], *colours: str) -> tuple[str, Mask]:
    """Save a palette image of values in one row, and read it as a mask."""
    image = Image.fromarray(np.array([values], np.uint8), mode="P")
    image.putpalette([*bytes.fromhex("".join(colours))])
    image.save(path)
    return path.name, read_mask(path)


def test_palettes_that_give_a_colour_to_two_classes_are_an_error(tmp_path):
    """A program that reduces colours orders the palette of each image anew."""
    plain = table({0: "ground", 1: "cat", 2: "dog", "ignore": [9]})
    first = drawn(tmp_path / "a.png", [0, 1], "000000", "ff0000")
    other = drawn(tmp_path / "b.gif", [0, 1], "00ff00", "000000")
    with pytest.raises(SqueezeError) as caught:
        label_masks([first, other], plain, 0, "")
    assert str(caught.value) == (
        "The colour #000000 is value 0 in a.png, but 1 in the palette of b.gif: store RGB images, and "
        "their colours in the file of --classes, or give all masks the same palette."
    )
    green = {"name": "dog", "colour": [0, 255, 0]}
    coloured = table({0: "ground", 1: "cat", 2: green, "ignore": [9]})
    with pytest.raises(SqueezeError, match="#00ff00 is value 2 in the classes, but 0 in"):
        label_masks([other], coloured, 0, "")
    label_masks([first, first, ("grey", mask_of(0, 1, 2))], coloured, 0, "")


def test_palettes_that_contradict_nothing_are_read_as_indices(tmp_path):
    red = {"name": "cat", "colour": [255, 0, 0]}
    classes = table({0: "ground", 1: red, 2: {"name": "dog", "colour": [1, 1, 1]}, "ignore": [9]})
    nine = ["123456"] * 9
    masks = [
        drawn(tmp_path / "own.png", [0, 1, 2], "000000", "0000ff", "00ff00"),
        drawn(tmp_path / "unused.png", [0, 2], "000000", "0000ff", "00ff00", "ff0000"),
        drawn(tmp_path / "repeated.png", [0, 1], "ff0000", "ff0000"),
        drawn(tmp_path / "ignored.png", [1, 9], "000001", "0000ff", *nine[2:], "ff0000"),
        drawn(tmp_path / "greys.png", [0, 1], *(f"{3 * f'{grey:02x}'}" for grey in range(256))),
    ]
    labelled = label_masks(masks, classes, 0, "")
    assert [labels.classes for labels in labelled.labels] == [
        (0, 1, 2),
        (0, 2),
        (0, 1),
        (1, 255),
        (0, 1),
    ]


@pytest.mark.parametrize("suffix", ["png", "tif", "gif"])
def test_masks_in_several_frames_are_refused(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    GREY.save(path, save_all=True, append_images=[GREY.transpose(Image.Transpose.ROTATE_180)])
    with pytest.raises(
        UnreadableImageError, match="it has 2 frames; store one with a value for each"
    ):
        read_mask(path)


def test_smaller_copies_in_the_file_of_a_mask_are_left_out(tmp_path):
    GREY.save(tmp_path / "a.tif", save_all=True, append_images=[GREY.resize((2, 1))])
    assert as_stored(read_mask(tmp_path / "a.tif")) == VALUES.tolist()


def test_unknown_values_are_an_error_in_one_line():
    masks = [("a", mask_of(0, 1, 9)), ("b", mask_of(9, 5)), ("c", mask_of(0))]
    with pytest.raises(SqueezeError) as caught:
        label_masks(masks, table({0: "x", 1: "y"}), 0, "Fix it.")
    expected = (
        "2 of 3 masks hold values that belong to no class: 5 in 1 image, 9 in 2 images; expected are 0, 1"
        ". For example a. Fix it."
    )
    assert str(caught.value) == expected


def test_stray_pixels_get_the_nearest_class_up_to_a_share():
    classes = table({1: "pet", 2: "background", 3: "border", "ignore": 255})
    stray = mask_of(0, 9, *[2] * 198)
    labelled = label_masks([("a", stray)], classes, 0.01, "")
    assert labelled.labels[0].plane()[0, :3].tolist() == [0, 2, 1]
    assert (labelled.stray_pixels, labelled.stray_images) == (2, 1)
    with pytest.raises(SqueezeError, match=r": 0 in 1 image, 9 in 1 .*expected are 1, 2, 3"):
        label_masks([("a", mask_of(0, 9, *[2] * 197))], classes, 0.01, "")
