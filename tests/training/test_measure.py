"""Measuring trained weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from squeeze_cli.config.schema import TrainingConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.drawn_pets import SyntheticSample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.features.datamodule import SegmentationDataModule
from squeeze_cli.training.measure import evaluate
from squeeze_cli.training.modules import SegmentationModule

CPU = torch.device("cpu")


class SmallTrunk:
    """A trunk whose states `[B, 4, 6, 6]` are means over squares of the image."""

    device = CPU
    backbone = SimpleNamespace(evaluation_images=1, vectors_per_image=36, feature_dim=4)
    num_workers = 0
    preprocessing = Preprocessing((24, 24))

    def states(self, pixels: torch.Tensor) -> torch.Tensor:
        colours = F.avg_pool2d(self.preprocessing.normalize(pixels), 4)
        return torch.cat([colours, colours.mean(dim=1, keepdim=True)], dim=1)


def test_metrics_do_not_depend_on_the_batches(module: SegmentationModule) -> None:
    samples = {"val": [SyntheticSample(str(i), 0, i, 24) for i in range(5)]}

    def measured(batch_size: int) -> dict[str, Any]:
        data = SegmentationDataModule(
            samples, SmallTrunk(), None, TrainingConfig(), Reporter(quiet=True),  # type: ignore[arg-type]
        )  # fmt: skip
        data.evaluation_batch_size = batch_size
        return evaluate(module, data, "val", CPU, Reporter(quiet=True))

    whole = measured(5)
    for batch_size in (1, 2, 4):
        parts = measured(batch_size)
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert parts["per_class_iou"] == whole["per_class_iou"]
