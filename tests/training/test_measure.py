"""Measuring trained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.datamodule import Ranks, SegmentationDataModule
from squeeze_cli.data.drawn_pets import SyntheticSample
from squeeze_cli.data.samples import Sample
from squeeze_cli.training.fit import evaluate
from squeeze_cli.training.modules import BaselineSegmentationModule

CPU = torch.device("cpu")


@dataclass
class Tensors:
    """States in memory as a source of batches."""

    dataset: Dataset[Any]
    device: torch.device = CPU
    num_workers: int = 0

    def open(
        self, splits: Mapping[str, Sequence[Sample]], ranks: Ranks
    ) -> Mapping[str, Dataset[Any]]:
        return dict.fromkeys(splits, self.dataset)

    def states(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


def test_metrics_do_not_depend_on_the_batches(module: BaselineSegmentationModule) -> None:
    torch.manual_seed(0)
    states, masks = torch.randn(5, 4, 6, 6), torch.randint(0, 3, (5, 24, 24), dtype=torch.uint8)
    samples = {"val": [SyntheticSample(str(i), 0, i, 24) for i in range(5)]}

    def measured(batch_size: int) -> dict[str, Any]:
        source = Tensors(TensorDataset(states, masks, torch.arange(5)))
        data = SegmentationDataModule(
            samples, source, batch_size=2, evaluation_batch_size=batch_size, seed=0
        )
        return evaluate(ExperimentConfig(), module, data, "val", CPU, Reporter(quiet=True))

    whole = measured(5)
    for batch_size in (1, 2, 4):
        parts = measured(batch_size)
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert parts["per_class_iou"] == whole["per_class_iou"]
