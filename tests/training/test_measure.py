"""Measuring without a trainer."""

from __future__ import annotations

import pytest
import torch

from squeeze_cli.training.modules import BaselineSegmentationModule


def test_metrics_do_not_depend_on_the_batches(module: BaselineSegmentationModule) -> None:
    torch.manual_seed(0)
    states, masks = torch.randn(5, 4, 6, 6), torch.randint(0, 3, (5, 24, 24), dtype=torch.uint8)

    def measured(batch_size: int) -> dict[str, object]:
        index = torch.arange(5).split(batch_size)
        batches = [(states[i], masks[i], i) for i in index]
        return module.measure(batches, torch.device("cpu"))

    whole = measured(5)
    for batch_size in (1, 2, 4):
        parts = measured(batch_size)
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert parts["per_class_iou"] == whole["per_class_iou"]
