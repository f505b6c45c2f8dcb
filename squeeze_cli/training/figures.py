"""Figures of a training: predicted masks with the mean IoU of each image, codebook usage, and curves."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from squeeze_cli.config.record import RunRecord
from squeeze_cli.console import Reporter
from squeeze_cli.errors import one_line
from squeeze_cli.features.datamodule import Batch, FeatureBatches, SegmentationDataModule
from squeeze_cli.losses.segmentation import upsample
from squeeze_cli.reports.figures import (
    PredictedMask,
    codebook_figure,
    curves_figure,
    predictions_figure,
    run_title,
    save_figure,
)
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.experiment import Experiment
from squeeze_cli.training.metrics import SegmentationMetrics
from squeeze_cli.training.modules import SegmentationModule

SHOWN_IMAGES = 4
# Low, so that drawing takes little of the time of a short training.
DPI = 100


@torch.inference_mode()
def predict_batch(module: SegmentationModule, batch: Batch) -> list[PredictedMask]:
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
    The result is None if every pixel is ignored.
    """
    metric = SegmentationMetrics(num_classes, sync_on_compute=False)  # other ranks lack the image
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


def save_figures(
    run: RunFolder, experiment: Experiment, record: RunRecord,
    code_counts: Sequence[NDArray[np.int64]], reporter: Reporter,
) -> None:  # fmt: skip
    """Draw `figures/predictions.png`, `codebook.png` and `training.png`; show them in TensorBoard.

    Predictions are of a few validation images, evenly spread. `code_counts` has the counts of the values
    of each code in the test images, and is empty without codes. All errors are reported as a warning,
    because a finished training must not fail for its figures.
    """
    try:
        figures = {"training": curves_figure(record.history, record.epochs.best)}
        if code_counts:
            figures["codebook"] = codebook_figure(code_counts)
        if isinstance(module := experiment.module, SegmentationModule):
            data, classes = experiment.data, experiment.classes
            assert classes is not None  # a module that predicts masks was trained on some
            total = len(data.splits["val"])
            count = min(SHOWN_IMAGES, total)
            positions = [i * total // count for i in range(count)]
            masks = [[mask] for mask in predict_batch(module, data.batch("val", positions))]
            pictures = read_pictures(data, "val", positions)
            figures["predictions"] = predictions_figure(
                pictures, masks, [run_title(record)], classes
            )
        files = [run.figures_folder / f"{name}.png" for name in figures]
        for file, figure in zip(files, figures.values(), strict=True):
            save_figure(figure, file, DPI)
        if experiment.config.logger.use_tensorboard:
            from squeeze_cli.trackers.loggers import add_pictures

            add_pictures(run, files, record.epochs.done)
    except Exception as error:  # noqa: BLE001 - see above
        reason = one_line(f"{type(error).__name__}: {error}")
        reporter.warn(f"The figures could not be made ({reason}).")
