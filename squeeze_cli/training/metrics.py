"""Mean IoU, pixel accuracy, codebook usage and perplexity, over whole sets of images.

Mean IoU is the whole-set one (torchmetrics' `MulticlassJaccardIndex`): intersections and unions
are summed over all images before they are divided, and classes that appear neither in the
predictions nor in the targets do not count. It is not the mean of the images' own IoUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from squeeze_cli.config.defaults import IGNORE_INDEX


class SegmentationMetrics(MulticlassConfusionMatrix):
    """One confusion matrix, from which all segmentation metrics follow."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes=num_classes, ignore_index=IGNORE_INDEX, validate_args=False)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count (target, prediction) pairs of class indices, `[...]` each of the same shape.

        torchmetrics' own update selects the valid pixels first, which costs more than all else in
        a small head's step; here ignored pixels fall into bins past those of the classes.
        """
        classes = self.num_classes
        bins = (target.int() * classes).add_(preds)
        counts = torch.bincount(bins.flatten(), minlength=classes * classes)
        self.confmat += counts[: classes * classes].view(classes, classes)

    def summary(self) -> dict[str, Any]:
        """`iou` (mean), `accuracy` (pixels) and `per_class_iou` (None for absent classes)."""
        matrix = self.compute().cpu().double()  # not every device has float64
        hits = matrix.diag()
        union = matrix.sum(dim=0) + matrix.sum(dim=1) - hits
        present = union > 0
        iou = hits / union.clamp_min(1)
        return {
            "iou": float(iou[present].mean()) if present.any() else 0.0,
            "accuracy": float(hits.sum() / matrix.sum().clamp_min(1)),
            "per_class_iou": [float(v) if p else None for v, p in zip(iou, present, strict=True)],
        }


class CodebookUsage(Metric):
    """How often each code was used, for each of the Q codes of a vector."""

    full_state_update = False

    def __init__(self, code_sizes: Sequence[int]) -> None:
        super().__init__()
        self.code_sizes = tuple(code_sizes)
        for level, size in enumerate(self.code_sizes):
            self.add_state(f"counts_{level}", torch.zeros(size, dtype=torch.int64), "sum")

    def update(self, codes_bnq: Tensor) -> None:
        """Count codes `[B, N, Q]`."""
        for level, size in enumerate(self.code_sizes):
            counts = torch.bincount(codes_bnq[..., level].flatten(), minlength=size)
            setattr(self, f"counts_{level}", getattr(self, f"counts_{level}") + counts)

    def counts(self) -> list[Tensor]:
        """For each level, how often each code was used, `[K]` int64."""
        return [getattr(self, f"counts_{level}") for level in range(len(self.code_sizes))]

    def compute(self) -> dict[str, list[float]]:
        """For each level: `usage`, the share of codes used at all, and `perplexity`, 2^entropy."""
        usage, perplexity = [], []
        for level_counts in self.counts():
            counts = level_counts.cpu().double()
            shares = counts / counts.sum().clamp_min(1)
            usage.append(float((counts > 0).double().mean()))
            perplexity.append(float(torch.special.entr(shares).sum().exp()))
        return {"usage": usage, "perplexity": perplexity}
