"""`squeeze evaluate`: metrics of a trained run, on its own data or on other data."""

from __future__ import annotations

from typing import Literal

from squeeze_cli.config.record import SplitMetrics
from squeeze_cli.console import Reporter
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.reports.tables import EvaluationResult
from squeeze_cli.training.fit import evaluate


def evaluate_run(
    run: TrainedRun, split: Literal["val", "test"], reporter: Reporter
) -> EvaluationResult:
    """Measure a run on the `val` or `test` split of its data.

    Raises SqueezeError where the backbone's weights or the data are missing.
    """
    splits = run.splits(reporter)
    samples = splits.val if split == "val" else splits.test
    data = run.data({split: samples}, reporter)
    metrics = evaluate(
        run.config, run.module, data, split, run.device, reporter, alone=True, label="Evaluating"
    )
    source = run.config.data
    return EvaluationResult(
        run=run.folder.name,
        split=split,
        data_dir=source.data_dir if source.dataset == "oxford-pet" else "synthetic",
        images=len(samples),
        skipped_images=len(splits.skipped),
        metrics=SplitMetrics.model_validate(metrics),
    )
