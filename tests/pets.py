"""Oxford-IIIT Pet in small: files made by the tests, in the real layout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.known_sets import OxfordPetSource
from squeeze_cli.data.labels import Labels
from squeeze_cli.data.reading import UnreadableImageError
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.sources import Listing
from squeeze_cli.data.splits import choose_samples, complete_splits, label_samples


def noise_image(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Noise, so that a JPEG of it is long enough to be cut in the middle."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def trimap(width: int, height: int) -> Image.Image:
    values = np.full((height, width), 2, dtype=np.uint8)
    values[height // 4 : -height // 4, width // 4 : -width // 4] = 3
    values[height // 3 : -height // 3, width // 3 : -width // 3] = 1
    return Image.fromarray(values)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_layout(data_dir: Path, names: dict[str, list[str]]) -> Path:
    """Oxford-IIIT Pet's files for the named images, 47 x 31 pixels each."""
    folder = data_dir / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations" / "trimaps").mkdir(parents=True)
    for split, listed in names.items():
        lines = [f"{name} 1 1 1\n" for name in listed]
        (folder / "annotations" / f"{split}.txt").write_text("".join(lines))
        for seed, name in enumerate(listed):
            noise_image(47, 31, seed).save(folder / "images" / f"{name}.jpg")
            trimap(47, 31).save(folder / "annotations" / "trimaps" / f"{name}.png")
    return folder


def pets_below(data_dir: Path) -> OxfordPetSource:
    return OxfordPetSource(DataConfig(data_dir=str(data_dir)))


TINY_NAMES = {
    "trainval": [f"Abyssinian_{number}" for number in range(1, 11)],
    "test": [f"Bengal_{number}" for number in range(1, 5)],
}


def labelled(sample: Sample) -> Sample:
    """A sample whose classes are the values of its mask, in order."""
    mask = sample.read_mask()
    assert mask is not None
    return replace(sample, labels=Labels(mask, tuple(range(len(mask.values)))))


def broken(samples: Iterable[Sample]) -> list[str]:
    """The names of the samples whose image or mask cannot be read."""
    names = []
    for sample in samples:
        try:
            labelled(sample).read().decode()
        except UnreadableImageError:
            names.append(sample.name)
    return names


def splits_of(dataset: str, data_dir: Path, seed: int = 0, **others: object) -> Listing:
    """The splits of a data set, as a training makes them."""
    values = {"dataset": dataset, "data_dir": str(data_dir), "image_size": 64, **others}
    config = DataConfig.model_validate(values)
    return complete_splits(
        label_samples(config, choose_samples(config, seed))[0], config.place, seed
    )
