"""Predicted masks image by image, each with its own mean IoU, and what a picture shows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from squeeze_cli.config.record import RunRecord
from squeeze_cli.data.datamodule import Batch
from squeeze_cli.data.samples import Sample
from squeeze_cli.reports.figures import PictureColumn, picture_grid
from squeeze_cli.reports.tables import fixed, number, percent
from squeeze_cli.training.metrics import SegmentationMetrics
from squeeze_cli.training.modules import BaselineSegmentationModule

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PredictedMask:
    """A run's prediction for one image.

    Attributes:
        truth: `[H, W]` uint8, 0 pet, 1 background, 2 border, 255 unknown.
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
    height, width = masks.shape[-2:]
    logits, _ = module.predict_logits(states, (height, width))
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
    metric = SegmentationMetrics(num_classes, sync_on_compute=False)  # of this rank's image
    metric.update(predicted, truth)
    if not int(metric.confmat.sum()):
        return None
    return float(metric.compute()["iou"])


def draw_predictions(
    samples: Sequence[Sample],
    predictions: Sequence[Sequence[PredictedMask]],
    records: Sequence[RunRecord],
) -> Figure:
    """Draw images, their ground truth, and a row with the predictions of each record's run.

    `predictions` has for each image one mask per record.
    """
    columns = []
    for sample, masks in zip(samples, predictions, strict=True):
        truth = masks[0].truth
        size_px = (truth.shape[1], truth.shape[0])
        image = sample.load()[0].resize(size_px, Image.Resampling.BILINEAR).convert("RGB")
        shown = [truth, *(mask.predicted for mask in masks)]
        notes = ["", *(f"IoU {percent(mask.iou)}" for mask in masks)]
        columns.append(PictureColumn(sample.name, np.asarray(image), shown, notes))
    return picture_grid(["image", "ground truth", *map(_row_title, records)], columns)


def _row_title(record: RunRecord) -> str:
    """Return the title of a run's row: its quantizer, and its measured or nominal rate."""
    quantizer = record.quantizer
    if quantizer is None or not quantizer.code_sizes:
        return "baseline" if record.kind == "baseline" else "none"
    if record.measured is not None:
        return f"{quantizer.type}\n{fixed(record.measured.test.bits_per_vector, 2)} measured bits"
    return f"{quantizer.type}\n{number(quantizer.nominal_bits_per_vector)} nominal bits"
