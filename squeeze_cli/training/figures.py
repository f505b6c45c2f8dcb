"""Pictures of a training: predicted masks with each image's mean IoU, codebook usage, and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from squeeze_cli.config.classes import ClassTable
from squeeze_cli.config.record import RunRecord
from squeeze_cli.console import Reporter
from squeeze_cli.errors import one_line
from squeeze_cli.features.datamodule import Batch, FeatureBatches, SegmentationDataModule
from squeeze_cli.losses.segmentation import upsample
from squeeze_cli.reports.figures import (
    PictureColumn,
    codebook_figure,
    curves_figure,
    picture_grid,
    save_figure,
)
from squeeze_cli.reports.tables import fixed, number, percent
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.experiment import Experiment
from squeeze_cli.training.metrics import SegmentationMetrics
from squeeze_cli.training.modules import BaselineSegmentationModule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_IMAGES = 4
# Small, so that drawing takes no notable part of a short training.
DPI = 100


@dataclass(frozen=True)
class PredictedMask:
    """A run's prediction for one image.

    Attributes:
        truth: `[H, W]` uint8, class indices; IGNORE_INDEX where unknown.
        predicted: `[H, W]` uint8, indices of the head's outputs.
        iou: Mean IoU of this image alone; None where none of its pixels is labelled.
    """

    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    iou: float | None


@torch.inference_mode()
def predict_batch(module: BaselineSegmentationModule, batch: Batch) -> list[PredictedMask]:
    """Predict the masks of a batch; the module is in eval mode on the batch's device."""
    states, masks, _ = batch
    logits = upsample(module.network(states).logits, masks.shape[-2:])
    predicted = logits.argmax(dim=1).cpu()
    classes = logits.shape[1]
    return [
        PredictedMask(
            truth.to(torch.uint8).numpy(),
            mask.to(torch.uint8).numpy(),
            image_iou(mask, truth.long(), classes),
        )
        for mask, truth in zip(predicted, masks.cpu(), strict=True)
    ]


def image_iou(predicted: Tensor, truth: Tensor, num_classes: int) -> float | None:
    """Return the mean IoU over the classes in one image's prediction or truth, `[H, W]` int64 each.

    A run's mean IoU sums over all images before it divides, so it is not the mean of these.
    None where every pixel is ignored.
    """
    metric = SegmentationMetrics(num_classes, sync_on_compute=False)  # only this rank has the image
    metric.update(predicted, truth)
    iou = float(metric.compute()["iou"])
    return None if math.isnan(iou) else iou


def read_pictures(
    data: FeatureBatches, split: str, positions: Sequence[int]
) -> dict[str, NDArray[np.uint8]]:
    """Return the pixels `[H, W, 3]`, by name, of the images at these positions of a split."""
    assert isinstance(data, SegmentationDataModule)  # given features come without images
    samples = [data.splits[split][position] for position in positions]
    fitted = data.trunk.preprocessing.pixels
    return {sample.name: fitted(sample.read().decode()).numpy() for sample in samples}


def draw_predictions(
    pictures: Mapping[str, NDArray[np.uint8]], predictions: Sequence[Sequence[PredictedMask]],
    records: Sequence[RunRecord], classes: ClassTable,
) -> Figure:  # fmt: skip
    """Draw images, their ground truth, and a row with the predictions of each record's run.

    `pictures` has the pixels `[H, W, 3]` of each image by its name, and `predictions` for each of
    them one mask per record.
    """
    columns = []
    for (name, pixels), masks in zip(pictures.items(), predictions, strict=True):
        shown = [masks[0].truth, *(mask.predicted for mask in masks)]
        notes = ["", *(f"IoU {percent(mask.iou)}" for mask in masks)]
        columns.append(PictureColumn(name, pixels, shown, notes))
    return picture_grid(["image", "ground truth", *map(_row_title, records)], columns, classes)


def _row_title(record: RunRecord) -> str:
    """Return the title of a run's row: its quantizer, and its measured or nominal rate."""
    quantizer = record.quantizer
    if quantizer is None or not quantizer.code_sizes:
        return "baseline" if record.kind == "baseline" else "none"
    if record.measured is not None:
        return f"{quantizer.type}\n{fixed(record.measured.test.bits_per_vector, 2)} bits per vector"
    return f"{quantizer.type}\n{number(quantizer.nominal_bits_per_vector)} nominal bits"


def save_figures(
    run: RunFolder, experiment: Experiment, record: RunRecord,
    code_counts: Sequence[NDArray[np.int64]], reporter: Reporter,
) -> None:  # fmt: skip
    """Draw `figures/predictions.png`, `codebook.png` and `training.png`; show them in TensorBoard.

    Predictions are of a few validation images, evenly spread; codes are those of the test images.
    `code_counts` are the uses of each value of each code in the test images, empty without codes.
    Whatever goes wrong is a warning: a finished training does not fail for its pictures.
    """
    try:
        figures = {"training": curves_figure(record.history, record.epochs.best)}
        if code_counts:
            figures["codebook"] = codebook_figure(code_counts)
        if isinstance(experiment.module, BaselineSegmentationModule):
            figures["predictions"] = _predictions(experiment.module, experiment, record)
        files = [run.figures_folder / f"{name}.png" for name in figures]
        for file, figure in zip(files, figures.values(), strict=True):
            save_figure(figure, file, DPI)
        if experiment.config.logger.use_tensorboard:
            from squeeze_cli.trackers.loggers import add_pictures

            add_pictures(run, files, record.epochs.done)
    except Exception as error:  # noqa: BLE001 - see above
        reason = one_line(f"{type(error).__name__}: {error}")
        reporter.warn(f"The figures could not be made ({reason}).")


def _predictions(
    module: BaselineSegmentationModule, experiment: Experiment, record: RunRecord
) -> Figure:
    classes, total = experiment.classes, len(experiment.data.splits["val"])
    assert classes is not None  # a module that predicts masks was trained on some
    count = min(SHOWN_IMAGES, total)
    positions = [i * total // count for i in range(count)]
    masks = predict_batch(module, experiment.data.batch("val", positions))
    pictures = read_pictures(experiment.data, "val", positions)
    return draw_predictions(pictures, [[mask] for mask in masks], [record], classes)
