"""`squeeze evaluate`: metrics of a finished run on any data in Oxford-IIIT Pet layout."""

from __future__ import annotations

from squeeze_cli.console import print_json
from squeeze_cli.options import (
    EvaluationOptions,
    EvaluationSplit,
    OutputOptions,
    RunArgument,
    with_options,
)

EXAMPLES = (
    "squeeze evaluate runs/vq-efficientnet-lite0",
    "squeeze evaluate runs/vq-efficientnet-lite0 --data-dir other/data --split val --json",
)


@with_options()
def evaluate(
    run: RunArgument,
    split: EvaluationSplit = "test",
    *,
    data: EvaluationOptions,
    output: OutputOptions,
) -> None:
    """Measure a finished run: mean IoU, accuracy and codebook usage."""
    reporter = output.reporter()
    from squeeze_cli.inference.trained_run import TrainedRun
    from squeeze_cli.reports.tables import evaluation_table

    result = TrainedRun(run, **vars(data)).evaluate(split, reporter)
    if output.json:
        print_json(result.model_dump(exclude_unset=True))
    else:
        reporter.show(evaluation_table(result))
