"""Cases of images: kinds of files, files that are none, EXIF orientations, and names."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from squeeze_cli.api import open_run
from tests.cases.table import Case
from tests.pets import noise_image

EXTRACT = "extract-embeddings runs/vq --images images --out out"
USES = ("runs/vq",)
# How an upright picture is stored so that an EXIF orientation brings it back.
STORED = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip
PICTURE = noise_image(12, 8).resize((96, 64), Image.Resampling.BICUBIC)
Make = Callable[[Path], object]


def save(path: Path, image: Image.Image = PICTURE, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def oriented(suffix: str, **options: object) -> Make:
    """Give a function that stores the picture in all orientations."""

    def make(folder: Path) -> None:
        for orientation, method in STORED.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            stored = PICTURE if method is None else PICTURE.transpose(method)
            save(folder / "images" / f"o{orientation}.{suffix}", stored, exif=exif, **options)

    return make


def oriented_pairs(folder: Path) -> None:
    """The picture in all orientations, each with the mask of the upright one."""
    oriented("png")(folder)
    for path in (folder / "images").iterdir():
        mask = np.zeros((64, 96), np.uint8)
        mask[10:30, 20:80] = 1
        save(folder / "masks" / f"{path.stem}.png", Image.fromarray(mask))


def codes_of(folder: Path, file: str = "out/codes-00000.sqz") -> dict[str, bytes]:
    run = "runs/x" if file.startswith("runs/x") else "runs/vq"
    opened = open_run(folder / run, device="cpu")
    return {
        name: codes.tobytes()
        for names, batch in opened.open(folder / file).batches()
        for name, codes in zip(names, batch, strict=True)
    }


def check_equal(folder: Path) -> None:
    codes = codes_of(folder)
    assert (len(codes), len(set(codes.values()))) == (8, 1)


def check_trained_equal(folder: Path) -> None:
    for split in ("val", "test"):
        assert len(set(codes_of(folder, f"runs/x/codes/{split}.sqz").values())) == 1


def extracted(*names: str) -> Make:
    """Give a check of which images were extracted."""
    return lambda folder: _check_names(folder, sorted(names))


def _check_names(folder: Path, names: list[str]) -> None:
    assert (folder / "out" / "manifest.json").exists()
    assert sorted(codes_of(folder)) == names


def images(
    name: str, make: Make, *says: str, names: tuple[str, ...] = (), check: Make | None = None
) -> Case:
    """Give a row whose images are extracted: those of these names, or what `check` demands."""
    return Case(
        name, EXTRACT, says=says, silent_on=() if says else ("Warning",), uses=USES, make=make,
        writes=("out",), check=check or extracted(*names),
    )  # fmt: skip


def kinds(folder: Path) -> None:
    where = folder / "images"
    for number, suffix in enumerate(KINDS):
        form = {"jfif": "JPEG", "jpe": "JPEG", "pgm": "PPM"}.get(suffix)
        image = PICTURE.convert("L") if suffix == "pgm" else PICTURE
        save(where / f"{number}.{suffix}", image, **({"format": form} if form else {}))


def modes(folder: Path) -> None:
    where = folder / "images"
    for mode in ("1", "L", "LA", "P", "RGBA"):
        save(where / f"{mode}.png", PICTURE.convert(mode))
    levels = np.asarray(PICTURE.convert("L"), np.uint16) * 257
    save(where / "I16.png", Image.fromarray(levels))
    save(where / "I.tiff", Image.fromarray(levels.astype(np.int32)))
    save(where / "CMYK.jpg", PICTURE.convert("CMYK"))
    save(where / "palette.png", PICTURE.convert("P"), transparency=3)
    save(where / "one.png", Image.new("RGB", (1, 1)))
    save(where / "thin.png", Image.new("L", (500, 1)))
    save(where / "animated.gif", PICTURE, save_all=True, append_images=[noise_image(96, 64)])


def one_frame(folder: Path) -> None:
    save(folder / "images" / "still.gif")
    save(folder / "images" / "moving.gif", save_all=True, append_images=[noise_image(96, 64)])


def check_one_frame(folder: Path) -> None:
    codes = codes_of(folder)
    assert codes["still"] == codes["moving"]


def special(folder: Path) -> None:
    """Files that are not images, some of which would never end."""
    where = folder / "images"
    save(where / "good.jpg")
    os.mkfifo(where / "pipe.jpg")
    (where / "device.png").symlink_to("/dev/zero")
    (where / "self.jpg").symlink_to("self.jpg")
    (where / "lost.jpg").symlink_to("nowhere.jpg")
    (where / "folder.png").mkdir()
    here = Path.cwd()
    os.chdir(where)  # the path of a socket may have a hundred bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    os.chdir(here)


def broken(folder: Path) -> None:
    where = folder / "images"
    save(where / "good.jpg")
    content = (where / "good.jpg").read_bytes()
    (where / "cut.jpg").write_bytes(content[: len(content) // 2])
    (where / "empty.jpg").touch()
    (where / "text.png").write_text("no image")
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts
    )
    (where / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def others(folder: Path) -> None:
    save(folder / "images" / "good.jpg")
    for name in ("a.heic", "b.HEIC", "notes.txt", "raw.dng", "Makefile"):
        (folder / "images" / name).write_bytes(b"x")
    for name in (".DS_Store", "._good.jpg", ".hidden/bad.jpg"):
        (folder / "images" / name).parent.mkdir(exist_ok=True)
        (folder / "images" / name).write_bytes(b"x")


def links(folder: Path) -> None:
    """Folders that link to one another, to those above them, and out of the folder."""
    save(folder / "elsewhere" / "c.jpg")
    for name in "ab":
        save(folder / "images" / name / f"{name}.jpg")
        (folder / "images" / name / "above").symlink_to("..")
        (folder / "images" / name / "other").symlink_to(f"../{'ba'['ab'.index(name)]}")
    (folder / "images" / "out").symlink_to("../elsewhere")


def many_links(folder: Path) -> None:
    """Twelve folders, each with links to all: there are 12! paths without a circle."""
    for number in range(12):
        save(folder / "images" / str(number) / "photo.png")
        for other in range(12):
            (folder / "images" / str(number) / f"to{other}").symlink_to(f"../{other}")


def named(*names: str) -> Make:
    """Give a function that writes an image of its own for each name, and extracts their codes."""

    def make(folder: Path) -> None:
        for number, name in enumerate(names):
            save(folder / "images" / name, noise_image(96, 64, number), format="PNG")

    return make


def decoded(name: str, names: Mapping[str, str], *says: str) -> Case:
    """Give a row of extraction and decoding: each image has a mask at the path that is named."""

    def make(folder: Path) -> None:
        from tests.cases.stock import squeeze

        named(*names)(folder)
        squeeze(folder, "extract-embeddings runs/vq --images images --out codes --quiet")

    def check(folder: Path) -> None:
        masks = [path for path in (folder / "out").rglob("*.png") if path.is_file()]
        found = {path.relative_to(folder / "out").as_posix() for path in masks}
        assert found == set(names.values())

    return Case(
        name, "decode codes --run runs/vq --to masks --out out", says=says, uses=USES, make=make,
        silent_on=() if says else ("Warning",), writes=("out",), check=check,
    )  # fmt: skip


def bytes_names(folder: Path) -> None:
    save(folder / "images" / "good.jpg")
    where = os.fsencode(folder / "images")
    for name in (b"caf\xe9.jpg", b"b\xff.png"):
        shutil.copy(os.fsencode(folder / "images" / "good.jpg"), where + b"/" + name)


def mathematical(folder: Path) -> None:
    """A test image whose name looks like mathematics."""
    pets = folder / "pets" / "oxford-iiit-pet"
    (pets / "images" / "Bengal_1.jpg").rename(pets / "images" / "$x^{日.jpg")
    (pets / "annotations" / "trimaps" / "Bengal_1.png").rename(
        pets / "annotations" / "trimaps" / "$x^{日.png"
    )
    (pets / "annotations" / "test.txt").write_text("$x^{日\nBengal_2\n")


# Pillow has written AVIF since 11.3.
KINDS = tuple(
    kind
    for kind in (
        "jpg", "JPG", "jfif", "jpe", "jpeg", "avif", "jp2", "gif", "tif", "tiff", "ppm", "pgm", "webp",
        "bmp", "png", "tga",
    )
    if f".{kind.lower()}" in Image.registered_extensions()
)  # fmt: skip
LONG = "x" * 240

ROWS = (
    images("EXIF orientations in PNG", oriented("png"), check=check_equal),
    images("EXIF orientations in TIFF", oriented("tiff"), check=check_equal),
    images("EXIF orientations in WebP", oriented("webp", lossless=True), check=check_equal),
    Case("EXIF orientations, trained with masks", "train {T} --images images --masks masks --name x",
         says=("EXIF orientation", "it is applied, as a viewer does"), make=oriented_pairs,
         check=check_trained_equal),
    images("kinds of files", kinds, names=tuple(map(str, range(len(KINDS))))),
    images("modes of images", modes,
           names=("1", "L", "LA", "P", "RGBA", "I16", "I", "CMYK", "palette", "one", "thin", "animated")),
    images("an animation gives its first frame", one_frame, check=check_one_frame),
    images("pipes, devices, sockets, lost links", special, "Skipped device", "not a regular file",
           "Skipped lost", "Skipped pipe", "Skipped self", "Skipped socket", names=("good",)),
    images("broken and huge files", broken, "Skipped cut", "Skipped empty", "Skipped huge",
           "Skipped text", names=("good",)),
    images("files that are not images", others, "Left out 5 files in images that are not images",
           "2 of .heic", names=("good",)),
    images("links to folders, in circles", links, "are left out: a/above",
           names=("a/a", "b/b", "out/c")),
    images("folders that all link to all", many_links, "144 folders",
           names=tuple(f"{number}/photo" for number in range(12))),
    Case("no image that can be read", EXTRACT, 1, ("No image of images can be read",), uses=USES,
         make=lambda folder: (bytes_names(folder), (folder / "images/good.jpg").unlink()),
         writes=("out",)),
    images("names that are not UTF-8", bytes_names, "its name is not UTF-8", names=("good",)),
    images("names of one stem", named("tom.jpg", "tom.png", "tom.jpg.png", "Tom.jpg"),
           names=("tom.jpg", "tom.png", "tom.jpg.png", "Tom")),
    decoded("masks of one stem", {"tom.jpg": "tom.jpg.png", "tom.png": "tom.png.png",
            "tom.jpg.png": "tom.jpg.png.png", "Tom.jpg": "Tom.png"}),
    decoded("a mask that is named as a folder", {"x.jpg": "x.png.png", "x.png/y.jpg": "x.png/y.png"},
            "1 masks cannot have the names of their images", "x (x.png.png)"),
    decoded("names of 240 bytes", {f"{LONG}.jpg": f"{LONG}.png", f"y{LONG}.jpg": f"y{LONG}.png",
            "é" * 120 + ".jpg": "é" * 120 + ".png"}),
    decoded("odd names", {f"{name}.jpg": f"{name}.png" for name in (
            "-rf", "50%d", "a:b", "q'uo\"te", "[red]a[/red]", "[/]", "#a", " a ", "back\\slash", "日本",
            "new\nline", "$x^{日", "~", "classes.yaml")}),
    Case("a line end in the name of a broken image", EXTRACT, says=(r"Skipped bro\nken",), uses=USES,
         make=lambda folder: (save(folder / "images/good.jpg"),
                              (folder / "images/bro\nken.jpg").touch()), writes=("out",)),
    Case("a name like mathematics is drawn", "show runs/vq --data-dir pets", silent_on=("Glyph",),
         uses=("pets", "runs/vq"), make=mathematical),
)  # fmt: skip
