"""The commands of docs/own-data.md run, in order, on small drawn data."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_cli.config.classes import read_classes
from tests.conftest import ROOT, Squeeze
from tests.pets import noise_image
from tests.test_docs import commands

PAGE = ROOT / "docs" / "own-data.md"
SHORT = ("--epochs", "1", "--max-batches", "1", "--no-progress")
SMALL = (*SHORT, "--image-size", "64", "--num-workers", "0")


def yaml_block() -> str:
    """The classes that the page shows."""
    (found,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return found


def write_data(folder: Path) -> None:
    """Masks of 0 and 255 beside photos/, RGB masks of the twenty classes in street/, and features."""
    generator = np.random.default_rng(0)
    for name in ("features.npy", "more-features.npy"):
        np.save(folder / name, generator.normal(size=(12, 3, 4, 70)).astype(np.float16))
    (folder / "names.txt").write_text("".join(f"map {row}\n" for row in range(12)))
    (folder / "street.yaml").write_text(yaml_block())
    table = read_classes(str(folder / "street.yaml"))
    assert table is not None
    colours = np.array(table.colours, np.uint8)
    masks = {"masks": "photos", "street/masks": "street/images"}
    for number in range(12):
        blocks = np.roll(np.arange(20, dtype=np.uint8), number).reshape(4, 5)
        classes = np.kron(blocks, np.ones((9, 11), np.uint8))
        values = {
            "masks": ((classes == 5) * 255).astype(np.uint8),
            "street/masks": colours[classes],
        }
        for name, images in masks.items():
            for place in (name, images):
                (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values[name]).save(folder / name / f"{number}.png")
            noise_image(55, 36, number).save(folder / images / f"{number}.jpg")


@pytest.mark.slow
def test_the_commands_of_the_page_run(
    squeeze: Squeeze, squeeze_executable: Squeeze, tmp_path: Path
) -> None:
    """The first training is a process of its own; the others train in this one."""
    write_data(tmp_path)
    found = commands(PAGE, "squeeze")
    assert len(found) >= 6
    run = squeeze_executable
    for name, *rest in found:
        if "voc" in rest:  # it would be downloaded
            continue
        if name in ("train", "baseline"):
            rest += SHORT if "--features" in rest else SMALL
        run(name, *rest)
        run = squeeze
    with Image.open(next((tmp_path / "decoded").glob("*.png"))) as image:
        palette = image.getpalette()
    assert palette is not None
    assert palette[:6] == [128, 64, 128, 244, 35, 232]
