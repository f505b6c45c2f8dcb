"""Pets as anyone's data: images and masks in folders, with other classes and other kinds of files.

python -m tests.relabelled DATA_DIR FOLDER [--classes 6] [--kind rgb]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.drawn_pets import SyntheticPetSource
from squeeze_cli.data.known_sets import OxfordPetSource
from squeeze_cli.data.sources import DataSource

KINDS = ("grey", "palette", "rgb")
# Value, name and colour of each class. Cats' and dogs' borders are apart in the table of six.
TABLES = {
    2: [(0, "other", (240, 240, 240)), (1, "pet", (0, 114, 178))],
    6: [
        (0, "background", (0, 0, 0)),
        (10, "Abyssinian", (128, 0, 0)),
        (20, "american bulldog", (0, 128, 0)),
        (30, "Bengal", (128, 128, 0)),
        (40, "border of a cat", (0, 0, 128)),
        (50, "border of a dog", (128, 0, 128)),
    ],
}
BREEDS = ("Abyssinian", "american_bulldog", "Bengal")


def relabel(trimap: np.ndarray, breed: int, classes: int) -> np.ndarray:
    """Class values of a trimap of 1 (pet), 2 (background) and 3 (border)."""
    if classes == 2:
        return np.where(trimap == 2, 0, 1).astype(np.uint8)
    border = 50 if breed == 1 else 40
    return np.select([trimap == 1, trimap == 3], [10 + 10 * breed, border], 0).astype(np.uint8)


def write(folder: Path, source: DataSource, classes: int, kind: str, most: int = 10_000) -> None:
    """Write images, masks and classes.yaml; the source's test goes to test_images and test_masks."""
    table = TABLES[classes]
    colours = np.zeros((256, 3), np.uint8)
    for value, _, colour in table:
        colours[value] = colour
    listing = source.listing()
    for prefix, samples in (("", listing.train[:most]), ("test_", listing.test[:most])):
        images, masks = folder / f"{prefix}images", folder / f"{prefix}masks"
        images.mkdir(parents=True)
        masks.mkdir()
        for number, sample in enumerate(samples):
            breeds = [i for i, breed in enumerate(BREEDS) if sample.name.startswith(breed)]
            mask = sample.read_mask()
            assert mask is not None
            breed = breeds[0] if breeds else number % 3
            values = relabel(mask.plane(mask.values), breed, classes)
            image = Image.fromarray(values)
            if kind == "palette":
                image.putpalette(colours.ravel().tolist())
            elif kind == "rgb":
                image = Image.fromarray(colours[values])
            image.save(masks / f"{sample.name}.png")
            sample.read().decode().save(images / f"{sample.name}.png")
    lines = [
        f"{value}: {{name: {name}, colour: {list(colour)}}}\n" for value, name, colour in table
    ]
    (folder / "classes.yaml").write_text("".join(lines))


def pets(data_dir: Path, side_px: int = 64) -> DataSource:
    """The photographs, or drawn pets where there are none."""
    if (data_dir / "oxford-iiit-pet").is_dir():
        return OxfordPetSource(DataConfig(data_dir=str(data_dir)))
    return SyntheticPetSource(DataConfig(image_size=str(side_px)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, choices=TABLES, default=6)
    parser.add_argument("--kind", choices=KINDS, default="grey")
    options = parser.parse_args()
    write(options.folder, pets(options.data_dir), options.classes, options.kind)
