"""`squeeze evaluate`: metrics of a finished run on any data in Oxford-IIIT Pet layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from squeeze_cli.commands.output import make_reporter, print_json
from squeeze_cli.options import DATA_FLAGS, OUTPUT_FLAGS, TRAINING_FLAGS, takes

EXAMPLES = (
    "squeeze evaluate runs/vq-efficientnet-lite0",
    "squeeze evaluate runs/vq-efficientnet-lite0 --data-dir other/data --split val --json",
)
_TAKEN = {
    "data.data_dir", "data.num_workers", "data.cache_dir", "data.use_cache",
    "training.device", "training.batch_size",
}  # fmt: skip
_TEXTS = {
    "data.data_dir": "Folder that holds oxford-iiit-pet/. [default: the run's own]",
    "training.batch_size": "Images a step. [default: the run's own]",
    "training.device": "Where to measure: auto, cpu, cuda, mps. [default: the run's own]",
}
EVALUATION_FLAGS = (
    *(
        replace(flag, text=_TEXTS.get(flag.target, flag.text))
        for flag in (*DATA_FLAGS, *TRAINING_FLAGS)
        if flag.target in _TAKEN
    ),
    *OUTPUT_FLAGS,
)


@takes(EVALUATION_FLAGS)
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", show_default=False)],
    split: Annotated[
        Literal["test", "val"], typer.Option("--split", help="Which images.")
    ] = "test",
    **flags: Any,
) -> None:
    """Measure a finished run: mean IoU, accuracy and codebook usage."""
    reporter = make_reporter(flags)
    from squeeze_cli.inference.evaluate import evaluate_run
    from squeeze_cli.inference.trained_run import TrainedRun

    result = evaluate_run(TrainedRun(run, **run_options(flags)), split, reporter)
    if flags.get("json"):
        print_json(result.model_dump(exclude_unset=True))
        return
    from squeeze_cli.reports.inference_results import evaluation_table

    reporter.show(evaluation_table(result))


def run_options(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of `TrainedRun` for the flags that were given."""
    return {
        "device": flags.get("training__device"),
        "data_dir": flags.get("data__data_dir"),
        "cache_dir": flags.get("data__cache_dir"),
        "use_cache": flags.get("data__use_cache"),
        "num_workers": flags.get("data__num_workers"),
        "batch_size": flags.get("training__batch_size"),
    }
