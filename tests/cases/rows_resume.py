"""Cases of resuming: the data of a stopped run have changed, or have moved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tests.cases.table import Case

RESUME = "train --resume --name stopped --no-progress"
PETS = "pets/oxford-iiit-pet"
USES = ("pets", "runs/stopped")
RECORD = "runs/stopped/run.json"
OTHERS = "cannot be resumed, its data have changed"
Make = Callable[[Path], object]


def fewer(folder: Path) -> None:
    path = folder / PETS / "annotations" / "trainval.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))


def other_order(folder: Path) -> None:
    path = folder / PETS / "annotations" / "trainval.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


def exchanged(folder: Path) -> None:
    """Exchange a training image and a test image, with their masks, behind their names."""
    for kind, suffix in (("images", "jpg"), ("annotations/trimaps", "png")):
        first, last = (
            folder / PETS / kind / f"{name}.{suffix}" for name in ("Abyssinian_1", "Bengal_2")
        )
        content = first.read_bytes()
        first.write_bytes(last.read_bytes())
        last.write_bytes(content)


def other_images(folder: Path) -> None:
    path = folder / PETS / "images" / "Abyssinian_3.jpg"
    path.write_bytes((folder / PETS / "images" / "Abyssinian_4.jpg").read_bytes())


def other_masks(folder: Path, most: int = 5) -> None:
    for path in sorted((folder / PETS / "annotations" / "trimaps").iterdir())[:most]:
        Image.fromarray(4 - np.asarray(Image.open(path))).save(path)


def broken(folder: Path) -> None:
    (folder / PETS / "images" / "Abyssinian_3.jpg").write_bytes(b"")


def lost(folder: Path) -> None:
    (folder / PETS / "images" / "Abyssinian_3.jpg").unlink()


def moved(folder: Path) -> None:
    (folder / "pets").rename(folder / "elsewhere")


def moved_and_changed(folder: Path) -> None:
    other_masks(folder)
    moved(folder)


def edited(change: Callable[[dict[str, dict[str, object]]], object], *others: Make) -> Make:
    """Give a function that changes the run's record, after others that change the data."""

    def make(folder: Path) -> None:
        for other in others:
            other(folder)
        record = json.loads((folder / RECORD).read_text())
        change(record)
        (folder / RECORD).write_text(json.dumps(record))

    return make


def check_moved(folder: Path) -> None:
    """The run knows the new place of its data."""
    assert config_of(folder)["data_dir"] == "elsewhere"
    assert json.loads((folder / RECORD).read_text())["status"] == "finished"


def check_kept(folder: Path) -> None:
    """The run knows the old place, and can be resumed when the data are back."""
    assert config_of(folder)["data_dir"] == "pets"
    record = json.loads((folder / RECORD).read_text())
    assert (record["status"], record["data"]["train_images"]) == ("failed", 8)


def config_of(folder: Path) -> dict[str, object]:
    content: dict[str, dict[str, object]] = yaml.safe_load(
        (folder / "runs/stopped/config.yaml").read_text()
    )
    return content["data"]


def refused(name: str, make: Make, *says: str, options: str = "") -> Case:
    return Case(
        name, f"{RESUME}{options}", 1, (OTHERS, *says), uses=USES, make=make, check=check_kept
    )


def back_again(folder: Path) -> None:
    """What was refused is resumed when the data are back."""
    assert json.loads((folder / RECORD).read_text())["status"] == "finished"


ROWS = (
    refused("fewer images", fewer, "other names or splits of images", "(8, 2 and 4 of train, val",
            "4, 1 and 4 now)"),
    refused("another order", other_order, "other names or splits of images"),
    refused("images exchanged behind their names", exchanged, "other images than"),
    refused("another image behind a name", other_images, "other images than"),
    refused("other masks", other_masks, "other masks than"),
    refused("a broken image", broken, "other names or splits"),
    refused("a lost image", lost, "other names or splits"),
    refused("moved and changed", moved_and_changed, "other masks than", options=" --data-dir elsewhere"),
    Case("the same data elsewhere", f"{RESUME} --data-dir elsewhere", silent_on=("changed",),
         uses=USES, make=moved, check=check_moved),
    Case("the same data by another path", f"{RESUME} --data-dir runs/../pets",
         silent_on=("changed",), uses=USES, check=back_again),
    Case("nothing there", f"{RESUME} --data-dir nowhere", 1, ("is not complete",), uses=USES,
         check=check_kept),
    Case("another option", f"{RESUME} --batch-size 2", 2, ("--batch-size 2 differs",), uses=USES,
         writes=()),
    Case("images in place of a data folder", f"{RESUME} --images pets", 2, ("--images",), uses=USES,
         writes=()),
    Case("a run of an older version", RESUME, says=("of an older version, may have changed",), uses=USES,
         make=edited(lambda record: record["data"].pop("part_digests"), other_images),
         check=back_again),
    Case("a run of an older version, unchanged", RESUME, silent_on=("changed",), uses=USES,
         make=edited(lambda record: record["data"].pop("part_digests")), check=back_again),
)  # fmt: skip
