"""Cases of finished runs whose data have changed: what was trained on is not reported as the test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.cases.rows_resume import PETS, Make, broken, exchanged, fewer, other_images, other_masks
from tests.cases.stock import squeeze
from tests.cases.table import TINY_TRAINING, Case
from tests.pets import noise_image

FIX = "restore the data"
NAMES = "has other names or splits of images than runs/"
CONTENT = "pets has other images or masks of the test split than runs/vq was trained with"
IN_FOLDER = ("images", "runs/recon")


def to_train(folder: Path) -> None:
    """Move a test image's line into the list to train on, and back one that was trained on."""
    lists = [folder / PETS / "annotations" / f"{name}.txt" for name in ("trainval", "test")]
    train, test = (path.read_text().splitlines(keepends=True) for path in lists)
    lists[0].write_text("".join([*train[1:], test[0]]))
    lists[1].write_text("".join([*test[1:], train[0]]))


def one_more(folder: Path) -> None:
    """Add an image, so that the seed draws other images for the test."""
    noise_image(47, 31, 99).save(folder / "images" / "a_new_one.jpg")


def exchanged_in_test(folder: Path) -> None:
    """Put an image that was trained on into the place of one of the test."""
    images = folder / PETS / "images"
    shutil.copy(images / "Abyssinian_3.jpg", images / "Bengal_1.jpg")


def of_older_version(folder: Path) -> None:
    """Take the digests of the data out of the record, and change the data."""
    path = folder / "runs" / "vq" / "run.json"
    record = json.loads(path.read_text())
    record["data"]["part_digests"] = {}
    record["data"]["val_digest"] = record["data"]["test_digest"] = None
    path.write_text(json.dumps(record))
    fewer(folder)


def with_broken_ones(folder: Path) -> None:
    """Train where an image and a mask cannot be read."""
    (folder / "images" / "photo_3.jpg").write_bytes(b"")
    (folder / "masks" / "photo_5.png").write_bytes(b"")
    squeeze(folder, f"train {TINY_TRAINING} --images images --masks masks --name x")


def refused(name: str, command: str, make: Make, *says: str) -> Case:
    return Case(name, command, 1, (*says, FIX), uses=("pets", "runs/vq"), make=make, writes=())


ROWS = (
    refused("evaluate: other splits", "evaluate runs/vq", to_train, NAMES),
    refused("evaluate: fewer images", "evaluate runs/vq --split val", fewer, NAMES),
    refused("show: other splits", "show runs/vq", to_train, NAMES),
    refused("extract: other splits", "extract-embeddings runs/vq --out out", to_train, NAMES),
    refused("evaluate: an image of the test is another", "evaluate runs/vq", exchanged_in_test,
            CONTENT),
    refused("evaluate: other masks of val", "evaluate runs/vq --split val",
            lambda folder: other_masks(folder, 99), CONTENT.replace("test", "val")),
    refused("evaluate: contents exchanged", "evaluate runs/vq", exchanged, CONTENT),
    Case("evaluate: drawn anew", "evaluate runs/recon", 1, (f"images {NAMES}recon", FIX, "--images"),
         uses=IN_FOLDER, make=one_more, writes=()),
    Case("evaluate: drawn anew, and named", "evaluate runs/recon --images images", 0,
         (f"images {NAMES}recon", "may have been trained on"), uses=IN_FOLDER, make=one_more,
         writes=()),
    Case("extract: drawn anew", "extract-embeddings runs/recon --split all --out out", 1,
         (f"images {NAMES}recon", FIX), uses=IN_FOLDER, make=one_more, writes=()),
    Case("evaluate: named, with other contents", "evaluate runs/vq --data-dir pets", 0,
         (CONTENT, "may have been trained on"), silent_on=(NAMES,), uses=("pets", "runs/vq"),
         make=exchanged, writes=()),
    *(
        Case(f"evaluate: {name} elsewhere does not matter", "evaluate runs/vq", 0, ("4 images",),
             silent_on=("than runs/vq",), uses=("pets", "runs/vq"), make=make, writes=())
        for name, make in (("an image", other_images), ("a broken image", broken))
    ),
    Case("evaluate: moved", "evaluate runs/vq --data-dir moved", silent_on=("Warning",),
         uses=("pets", "runs/vq"), writes=("pets", "moved"),
         make=lambda folder: (folder / "pets").rename(folder / "moved")),
    Case("evaluate: a record of an older version", "evaluate runs/vq", 0, ("4 images",),
         uses=("pets", "runs/vq"), make=of_older_version, writes=()),
    Case("evaluate: skipped then and now", "evaluate runs/x", 0, ("2 images, test",),
         silent_on=("than runs/x",), uses=("images", "masks"), make=with_broken_ones, writes=()),
)  # fmt: skip
