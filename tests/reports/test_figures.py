"""Figures: codebook usage, curves and where labels stand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from matplotlib.figure import Figure

from squeeze_cli.config.record import EpochMetrics, SplitMetrics
from squeeze_cli.reports.figures import codebook_figure, curves_figure, place_labels


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


def test_labels_of_close_points_do_not_overlap_and_stay_in_the_axes() -> None:
    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.subplots()
    points = [(1.0, 1.0), (1.02, 1.01), (1.01, 0.97), (9.9, 5.0), (0.1, 5.0)]
    axis.plot([0, 10], [0, 10], "-")
    for x, y in points:
        axis.plot([x], [y], "o")
    axis.set_xlim(0, 10)
    place_labels(axis, [(x, y, f"label {n}") for n, (x, y) in enumerate(points)])
    assert [text.get_text() for text in axis.texts] == [f"label {n}" for n in range(5)]
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    frame = axis.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
