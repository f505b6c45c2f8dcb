from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_cli.data.samples import FileSample

REAL_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


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


TINY_NAMES = {
    "trainval": [f"Abyssinian_{number}" for number in range(1, 11)],
    "test": [f"Bengal_{number}" for number in range(1, 5)],
}


@pytest.fixture
def tiny_pets(tmp_path: Path) -> Path:
    """A data folder with 10 trainval and 4 test images, all whole."""
    write_layout(tmp_path, TINY_NAMES)
    return tmp_path


@pytest.fixture
def broken_pets(tiny_pets: Path) -> Path:
    """The same with every odd kind of file: three usable, five not."""
    folder = tiny_pets / "oxford-iiit-pet"
    images, trimaps = folder / "images", folder / "annotations" / "trimaps"
    noise_image(47, 31, mode="P").save(images / "Abyssinian_1.jpg", format="PNG")
    noise_image(47, 31, mode="RGBA").save(images / "Abyssinian_2.jpg", format="PNG")
    noise_image(47, 31, mode="L").save(images / "Abyssinian_3.jpg")
    cut(images / "Abyssinian_4.jpg")
    (images / "Abyssinian_5.jpg").unlink()
    cut(trimaps / "Abyssinian_6.png")
    trimap(31, 47).save(trimaps / "Abyssinian_7.png")
    (images / "Abyssinian_8.jpg").write_bytes(b"not an image")
    return tiny_pets


@pytest.fixture
def file_sample(tmp_path: Path) -> Callable[[Image.Image, Image.Image | None], FileSample]:
    """Write an image (and a trimap) without loss, and give the sample."""

    def write(image: Image.Image, mask: Image.Image | None = None) -> FileSample:
        image.save(tmp_path / "image.tiff" if image.mode == "CMYK" else tmp_path / "image.png")
        image_path = next(tmp_path.glob("image.*"))
        if mask is None:
            return FileSample("image", image_path)
        mask.save(tmp_path / "mask.png")
        return FileSample("image", image_path, tmp_path / "mask.png")

    return write
