from __future__ import annotations

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from squeeze_cli.training.metrics import CodebookUsage, SegmentationMetrics


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for size in (3, 5):
        prediction = torch.randint(0, 3, (size, 4, 7), generator=generator)
        target = torch.randint(0, 2, (size, 4, 7), generator=generator)
        target[0, 0] = 255
        pairs.append((prediction, target))
    return pairs


def test_mean_iou_and_accuracy_are_torchmetrics_own() -> None:
    """Over the whole set; class 3 is in neither predictions nor targets, and does not count."""
    ours = SegmentationMetrics(4)
    iou = MulticlassJaccardIndex(3, average="macro", ignore_index=255)
    accuracy = MulticlassAccuracy(3, average="micro", ignore_index=255)
    for prediction, target in batches():
        for metric in (ours, iou, accuracy):
            metric.update(prediction, target)
    summary = ours.summary()
    assert summary["iou"] == pytest.approx(float(iou.compute()))
    assert summary["accuracy"] == pytest.approx(float(accuracy.compute()))
    assert len(summary["per_class_iou"]) == 4
    assert summary["per_class_iou"][3] is None


def test_nothing_seen_gives_zeros_not_nans() -> None:
    assert SegmentationMetrics(3).summary() == {
        "iou": 0.0, "accuracy": 0.0, "per_class_iou": [None, None, None],
    }  # fmt: skip


def test_codebook_usage_by_level() -> None:
    metric = CodebookUsage((4, 2))
    metric.update(torch.tensor([[[0, 1], [1, 1], [2, 1]]]))
    metric.update(torch.tensor([[[3, 1]]]))
    result = metric.compute()
    assert result["usage"] == [1.0, 0.5]
    assert result["perplexity"] == pytest.approx([4.0, 1.0])
    metric.reset()
    metric.update(torch.zeros(1, 2, 2, dtype=torch.int64))
    assert metric.compute()["usage"] == [0.25, 0.5]
