"""Cases of masks: values that belong to no class, and masks that label little or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeeze_cli.config.classes import read_classes
from tests.cases.stock import squeeze
from tests.cases.table import Case

TRIMAPS = "pets/oxford-iiit-pet/annotations/trimaps"
PETS = "train {T} --data-dir pets --name x"
FOLDER = "train {T} --images images --masks masks --name x"
CLASSES = f"{FOLDER} --classes classes.yaml"
VOC = "train {T} --dataset voc --data-dir pets --name x"
# The colours of the table of pets, by the values of trimaps.
COLOURS = np.array([(0, 0, 0), (0, 114, 178), (240, 240, 240), (230, 159, 0)], np.uint8)
STORED_ANEW = ("4 images, test", "pets has other images or masks of the test split than runs/vq")
Pixels = NDArray[np.generic]
Change = Callable[[Pixels], "Pixels | Image.Image"]
Make = Callable[[Path], object]


def redrawn(where: str, change: Change, only: Iterable[str] | None = None) -> Make:
    """Give a function that changes masks: all of a folder, or those whose names begin so."""

    def make(folder: Path) -> None:
        for path in sorted((folder / where).iterdir()):
            if only is None or path.stem.startswith(tuple(only)):
                changed = change(np.asarray(Image.open(path)).copy())
                image = changed if isinstance(changed, Image.Image) else Image.fromarray(changed)
                image.save(path, format="PNG")

    return make


def in_palette(pixels: Pixels) -> Image.Image:
    image = Image.fromarray(pixels.astype(np.uint8), mode="P")
    image.putpalette(COLOURS.tobytes())
    return image


def with_stray(pixels: Pixels) -> Pixels:
    pixels[0, 0] = 77
    return pixels


def nothing(pixels: Pixels) -> Pixels:
    return np.full_like(pixels, 255)


def pets(name: str, change: Change, *says: str, code: int = 1, only: tuple[str, ...] = ()) -> Case:
    """Give a row with changed trimaps; what the store has of the images says nothing of them."""
    return Case(name, PETS, code, says, uses=("pets",), make=redrawn(TRIMAPS, change, only or None))


def wrong(name: str, change: Change, *says: str) -> Case:
    return pets(name, change, "14 of 14 masks", *says)


def folder(
    name: str, change: Change, *says: str, code: int = 1, command: str = FOLDER,
    table: str = "0: ground\n1: square\n", only: tuple[str, ...] = (),
) -> Case:  # fmt: skip
    def make(place: Path) -> None:
        redrawn("masks", change, only or None)(place)
        (place / "classes.yaml").write_text(table)

    return Case(name, command, code, says, uses=("images", "masks"), make=make)


def special(place: Path) -> None:
    """Put what is no mask in the place of three masks."""
    masks = place / "masks"
    for number in range(3):
        (masks / f"photo_{number}.png").unlink()
    os.mkfifo(masks / "photo_0.png")
    (masks / "photo_1.png").symlink_to("/dev/zero")
    (masks / "photo_2.png").write_bytes(b"")


def write_voc(place: Path) -> None:
    base = place / "pets" / "VOCdevkit" / "VOC2012"
    base.mkdir(parents=True)
    (place / "images").rename(base / "JPEGImages")
    (place / "masks").rename(base / "SegmentationClass")
    redrawn(str((base / "SegmentationClass").relative_to(place)), lambda pixels: pixels * 21)(place)
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"photo_{number}\n" for number in range(8)))
    (lists / "val.txt").write_text("".join(f"photo_{number}\n" for number in range(8, 12)))


def check_skipped(place: Path) -> None:
    data = json.loads((place / "runs" / "x" / "run.json").read_text())["data"]
    assert sorted(each["name"] for each in data["skipped"]) == ["photo_0", "photo_1", "photo_2"]


def check_classes(place: Path) -> None:
    """The classes beside decoded masks are those of their values."""
    table = read_classes(str(place / "masks" / "classes.yaml"))
    assert table is not None
    assert (table.names, table.values) == (["pet", "background", "border"], [0, 1, 2])
    assert table.ignore == ()
    image = Image.open(place / "masks" / "photo_0.png")
    assert image.getpalette()[:9] == [channel for colour in table.colours for channel in colour]


def half_ignored(folder: Path) -> None:
    """Have each mask of the folder ignore its upper half."""
    for path in (folder / "masks").iterdir():
        values = np.asarray(Image.open(path)).copy()
        values[: len(values) // 2] = 255
        Image.fromarray(values).save(path)


def distortion_is_that_of_all_vectors(folder: Path) -> None:
    """What a mask ignores is a part of the image: the features there are decoded as well."""
    record = json.loads((folder / "runs" / "x" / "run.json").read_text())
    test = record["metrics"]["test"]
    for command in ("extract-embeddings runs/x --out codes", "evaluate runs/x"):
        told = json.loads(squeeze(folder, f"{command} --json --no-progress"))
        found = told.get("metrics", told)
        for name in ("mse", "cosine"):
            assert abs(found[name] - test[name]) < 1e-5 * abs(test[name]), (command, name)


ROWS = (
    *(
        Case(
            f"regions that masks ignore, {fit}",
            f"{FOLDER} --reconstruction-weight 1 --fit {fit}",
            uses=("images", "masks"),
            make=half_ignored,
            check=distortion_is_that_of_all_vectors,
        )
        for fit in ("squash", "pad")
    ),
    wrong("binary 0 and 1", lambda p: (p == 1).astype(np.uint8), "0 in 14 images", "are 1, 2, 3"),
    wrong("zero-based", lambda p: p - 1, "0 in 14 images", "expected are 1, 2, 3, and 255"),
    wrong("one bit", lambda p: Image.fromarray(p == 1), "0 in 14 images"),
    wrong("0 and 255", lambda p: (p == 1).astype(np.uint8) * 255, "0 in 14 images"),
    wrong("values of VOC", lambda p: np.select([p == 1, p == 3], [12, 255], 0).astype(np.uint8),
          "0 in 14 images, 12 in 14 images"),
    wrong("16 bits, multiplied", lambda p: p.astype(np.uint16) * 256, "256 in 14", "512 in 14"),
    wrong("grey as RGB", lambda p: np.stack([p] * 3, -1), "#010101 in 14", "are #0072b2, #f0f0f0"),
    wrong("other colours", lambda p: COLOURS[p][..., ::-1].copy(), "#b27200 in 14"),
    wrong("zero-based palette", lambda p: in_palette(p - 1), "0 in 14 images"),
    wrong("negated", lambda p: 255 - p, "252 in 14", "253 in 14", "254 in 14"),
    pets("zero-based masks among others", lambda p: p - 1, "4 of 14 masks", "0 in 4 images",
         only=("Bengal",)),
    pets("more strays than can be", lambda p: np.where(p == 3, 77, p).astype(np.uint8),
         "77 in 14 images"),
    pets("nothing labelled", nothing, "masks of train hold nothing but ignored values"),
    pets("nothing of the test labelled", nothing, "The 4 masks of test hold nothing", "Bengal_1",
         only=("Bengal",)),
    pets("stray pixels", with_stray, "4 pixels in 4 masks have values that belong to no class",
         "the class of the nearest value", code=0, only=("Bengal",)),
    pets("one class alone", lambda p: np.full_like(p, 2), "No mask has a pixel of pet, border.",
         code=0),
    pets("a class that only the test has", lambda p: np.where(p == 3, 2, p).astype(np.uint8),
         "No mask of train has a pixel of border; other splits do.", code=0, only=("Abyssinian",)),
    pets("a mask without labels", nothing, "1 masks of test label no pixel, such as that of Bengal_1",
         code=0, only=("Bengal_1",)),
    Case("right colours, evaluated", "evaluate runs/vq --data-dir pets", says=STORED_ANEW,
         silent_on=("names or splits", "Skipped"), uses=("pets", "runs/vq"),
         make=redrawn(TRIMAPS, lambda p: COLOURS[p])),
    Case("16 bits, evaluated", "evaluate runs/vq --data-dir pets", says=STORED_ANEW,
         silent_on=("names or splits", "Skipped"), uses=("pets", "runs/vq"),
         make=redrawn(TRIMAPS, lambda p: p.astype(np.uint16))),
    Case("binary masks, evaluated", "evaluate runs/vq --data-dir pets", 1, ("14 of 14 masks",),
         uses=("pets", "runs/vq"), make=redrawn(TRIMAPS, lambda p: p // 2), writes=()),
    folder("folder: a value without a name", lambda p: p * 3, "12 of 12 masks", "3 in 12 images",
           "expected are 0, 1", command=CLASSES),
    folder("folder: one value", lambda p: p * 0, "fewer than two classes", "values found: 0"),
    folder("folder: 0 and 255", lambda p: p * 255, "fewer than two classes", "--ignore-index -1"),
    folder("folder: nothing labelled", nothing, "12 masks", "no class", command=CLASSES,
           table="0: ground\n1: square\nignore: []\n"),
    folder("folder: ignored alone", nothing, "hold nothing but ignored values", command=CLASSES),
    folder("folder: photographs as masks",
           lambda p: np.random.default_rng(0).integers(0, 256, (*p.shape, 3), np.uint8),
           "more than 256 different colours"),
    folder("folder: transparent", lambda p: Image.new("LA", p.shape[::-1]), "transparent pixels"),
    Case("folder: what is no mask is skipped", FOLDER, says=("Skipped photo_0", "not a regular file"),
         uses=("images", "masks"), make=special, check=check_skipped),
    Case("VOC: a value too high", VOC, 1, ("12 of 12 masks", "21 in 12 images", "255 is ignored"),
         uses=("images", "masks"), make=write_voc),
    Case("classes beside decoded masks", "decode codes --run runs/vq --to masks --out masks",
         uses=("codes", "runs/vq"), writes=("masks",), check=check_classes),
    Case("classes of another output are kept",
         "decode codes --run runs/vq --to masks --out masks", 2, ("classes.yaml exists",),
         uses=("codes", "runs/vq", "masks"), writes=(),
         make=lambda place: (place / "masks" / "classes.yaml").write_text("0: mine\n1: yours\n")),
)  # fmt: skip
