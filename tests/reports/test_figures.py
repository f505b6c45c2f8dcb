"""Figures: codebook usage, curves, and pictures of predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from squeeze_cli.config.classes import read_classes
from squeeze_cli.config.record import EpochMetrics, SplitMetrics
from squeeze_cli.data.known_sets import PET_CLASSES
from squeeze_cli.reports.figures import (
    PredictedMask,
    codebook_figure,
    curves_figure,
    predictions_figure,
    save_figure,
)


def test_codebook_usage_says_how_many_values_are_used_and_how_evenly() -> None:
    even = np.array([5, 0, 5, 5, 5], np.int64)
    figure = codebook_figure([even, np.array([0, 9, 0], np.int64), np.zeros(7, np.int64)])
    titles = [axis.get_title().replace("\n", " ") for axis in figure.axes]
    assert titles == [
        "code 1 of 3: 4 of 5 used, perplexity 4",
        "code 2 of 3: 1 of 3 used, perplexity 1",
        "code 3 of 3: 0 of 7 used, perplexity 0",
    ]
    (bars,) = figure.axes[0].patches
    assert bars.get_data().values.tolist() == [0.25, 0.25, 0.25, 0.25, 0.0]


def test_many_codes_or_a_huge_codebook_are_drawn_in_part() -> None:
    assert len(codebook_figure([np.ones(2, np.int64)] * 40).axes) == 16
    (axis,) = codebook_figure([np.arange(2**17, dtype=np.int64)]).axes
    assert len(axis.patches[0].get_data().values) <= 4096


def split_metrics(loss: float, iou: float) -> SplitMetrics:
    return SplitMetrics(loss=loss, iou=iou, accuracy=0.5, per_class_iou=[iou])


def test_curves_leave_a_gap_where_a_training_diverged() -> None:
    history = [
        EpochMetrics(epoch=number, train=split_metrics(loss, 0.5), val=split_metrics(1.0, 0.25))
        for number, loss in enumerate((3.0, float("nan"), 1.0))
    ]
    loss, iou = curves_figure(history, best=1).axes
    assert np.isnan(loss.lines[0].get_ydata()).tolist() == [False, True, False]
    assert iou.lines[1].get_ydata().tolist() == [25.0] * 3
    assert loss.lines[2].get_xdata() == [2, 2]  # the chosen epoch, counted from 1


def test_pet_and_border_are_coloured_and_background_and_other_classes_are_not() -> None:
    pixels = np.full((1, 4, 3), 100, np.uint8)
    mask = np.array([[0, 1, 2, 7]], np.uint8)
    predicted = PredictedMask(mask, mask, None)
    image, *below = predictions_figure({"a": pixels}, [[predicted]], ["vq"], PET_CLASSES).axes
    assert [np.asarray(shown.get_array()).tolist() for shown in image.images] == [pixels.tolist()]
    for axis in below:
        behind, overlay = (np.asarray(shown.get_array()) for shown in axis.images)
        assert behind.tolist() == pixels.tolist()
        # Blue (0, 114, 178) and orange (230, 159, 0) cover 60 % of the pixel.
        colours = (overlay[0, [0, 2]] * [255, 255, 255, 1]).round(6)
        assert colours.tolist() == [[0, 114, 178, 0.6], [230, 159, 0, 0.6]]
        assert (overlay[0, [1, 3], 3] == 0).all()


def test_the_legend_names_the_classes_that_are_shown() -> None:
    table = read_classes(
        {0: "Background", 4: {"name": "cat", "colour": [1, 2, 3]}, 9: "dog", 7: "sky"}
    )
    assert table is not None
    truth, predicted = np.array([[[0, 1, 1]], [[0, 3, 3]]], np.uint8)
    masks = [PredictedMask(truth, predicted, 0.5)]
    figure = predictions_figure({"a": np.zeros((1, 3, 3), np.uint8)}, [masks], ["vq"], table)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["cat", "sky"]


def test_an_image_a_column_and_its_masks_below_it(tmp_path: Path) -> None:
    names = ("a", "b", "a-name-that-is-longer-than-its-picture")
    pictures = {name: np.zeros((6, 4, 3), np.uint8) for name in names}
    truth, predicted = np.zeros((6, 4), np.uint8), np.full((6, 4), 2, np.uint8)
    masks = [[PredictedMask(truth, predicted, iou)] for iou in (0.25, 0.5, None)]
    figure = predictions_figure(pictures, masks, ["vq"], PET_CLASSES)
    assert len(figure.axes) == 9
    assert [axis.get_title() for axis in figure.axes[:2]] == ["a", "b"]
    assert len(figure.axes[2].get_title()) == 20
    assert [axis.get_ylabel() for axis in figure.axes[::3]] == ["image", "ground truth", "vq"]
    assert [axis.get_xlabel() for axis in figure.axes[6:]] == ["IoU 25.0", "IoU 50.0", "IoU –"]
    assert figure.axes[3].get_xlabel() == ""
    save_figure(figure, tmp_path / "p.png", 50)
    with Image.open(tmp_path / "p.png") as image:
        assert image.getextrema()[0] == (0, 255)
