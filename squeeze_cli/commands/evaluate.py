"""`squeeze evaluate`: metrics of a finished run on any data in Oxford-IIIT Pet layout."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from squeeze_cli import options
from squeeze_cli.console import Reporter, print_json

EXAMPLES = (
    "squeeze evaluate runs/vq-efficientnet-lite0",
    "squeeze evaluate runs/vq-efficientnet-lite0 --data-dir other/data --split val --json",
)
EvaluationSplit = Annotated[
    Literal["test", "val"], typer.Option("--split", help="Split of the run's data.")
]


def evaluate(
    run: options.RunArgument,
    split: EvaluationSplit = "test",
    data_dir: options.DataDir = None,
    cache_dir: options.CacheDir = None,
    use_cache: options.UseCache = None,
    num_workers: options.NumWorkers = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
) -> None:
    """Measure a finished run: mean IoU, accuracy and codebook usage."""
    reporter = Reporter(quiet, verbose, not no_progress)
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
