from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from squeeze_cli.data.samples import FileSample
from tests.pets import cut, noise_image, trimap


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
