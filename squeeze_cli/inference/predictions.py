"""Predicted masks image by image, each with its own mean IoU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from squeeze_cli.training.metrics import SegmentationMetrics
from squeeze_cli.training.modules import BaselineSegmentationModule, Batch


@dataclass(frozen=True)
class PredictedMask:
    """What a run makes of one image.

    Attributes:
        truth: `[H, W]` uint8, 0 pet, 1 background, 2 border, 255 unknown.
        predicted: `[H, W]` uint8, indices of the head's outputs.
        iou: mean IoU of this image alone; None where nothing of it is labelled.
    """

    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    iou: float | None


@torch.inference_mode()
def predict_batch(
    module: BaselineSegmentationModule, batch: Batch, device: torch.device
) -> list[PredictedMask]:
    """The masks that the module, in eval mode on `device`, predicts for a batch of its loader."""
    inputs, masks, _ = batch
    height, width = masks.shape[-2:]
    logits, _ = module.predict_logits(module.states(inputs.to(device)), (height, width))
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
    """Mean IoU over the classes in one image's prediction or truth, `[H, W]` int64 each.

    A run's mean IoU sums over all images before it divides, so it is not the mean of these.
    None where every pixel is ignored.
    """
    metric = SegmentationMetrics(num_classes)
    metric.update(predicted, truth)
    if not int(metric.confmat.sum()):
        return None
    return float(metric.summary()["iou"])
