"""`squeeze evaluate`: metrics of a finished run on any data in Oxford-IIIT Pet layout."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from squeeze_cli.commands.output import make_reporter, print_json
from squeeze_cli.options import (
    BatchSize,
    CacheDir,
    DataDir,
    Device,
    Json,
    NoProgress,
    NumWorkers,
    Quiet,
    RunArgument,
    UseCache,
    Verbose,
)

EXAMPLES = (
    "squeeze evaluate runs/vq-efficientnet-lite0",
    "squeeze evaluate runs/vq-efficientnet-lite0 --data-dir other/data --split val --json",
)
EvaluationSplit = Annotated[
    Literal["test", "val"], typer.Option("--split", help="Split of the run's data.")
]


def evaluate(
    run: RunArgument,
    split: EvaluationSplit = "test",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    use_cache: UseCache = None,
    num_workers: NumWorkers = None,
    batch_size: BatchSize = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
) -> None:
    """Measure a finished run: mean IoU, accuracy and codebook usage."""
    reporter = make_reporter(quiet, verbose, no_progress)
    from squeeze_cli.inference.evaluate import evaluate_run
    from squeeze_cli.inference.trained_run import TrainedRun

    opened = TrainedRun(
        run, device=device, data_dir=data_dir, cache_dir=cache_dir, use_cache=use_cache,
        num_workers=num_workers, batch_size=batch_size,
    )  # fmt: skip
    result = evaluate_run(opened, split, reporter)
    if json:
        print_json(result.model_dump(exclude_unset=True))
        return
    from squeeze_cli.reports.tables import evaluation_table

    reporter.show(evaluation_table(result))
