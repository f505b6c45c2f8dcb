from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from squeeze_cli.reports.figures import save_figure
from squeeze_cli.reports.pictures import PictureColumn, overlay, picture_grid


def test_pet_and_border_are_coloured_and_background_and_other_classes_are_not() -> None:
    pixels = np.full((1, 4, 3), 100, np.uint8)
    shown = overlay(pixels, np.array([[0, 1, 2, 7]], np.uint8))
    # 40 % of the pixel and 60 % of blue (0, 114, 178) or of orange (230, 159, 0).
    assert shown[0].tolist() == [[40, 108, 147], [100] * 3, [178, 135, 40], [100] * 3]
    assert pixels.max() == 100  # the image itself is left as it was


def test_an_image_a_column_and_its_masks_below_it(tmp_path: Path) -> None:
    masks = [np.zeros((6, 4), np.uint8), np.full((6, 4), 2, np.uint8)]
    columns = [
        PictureColumn(name, np.zeros((6, 4, 3), np.uint8), masks, ["", f"IoU {name}"])
        for name in ("a", "b", "a-name-that-is-longer-than-its-picture")
    ]
    figure = picture_grid(["image", "ground truth", "vq"], columns)
    assert len(figure.axes) == 9
    assert [axis.get_title() for axis in figure.axes[:2]] == ["a", "b"]
    assert len(figure.axes[2].get_title()) == 20
    assert [axis.get_ylabel() for axis in figure.axes[::3]] == ["image", "ground truth", "vq"]
    assert figure.axes[7].get_xlabel() == "IoU b"
    save_figure(figure, tmp_path / "p.png", 50)
    with Image.open(tmp_path / "p.png") as image:
        assert image.getextrema()[0] == (0, 255)
