"""`squeeze show`: a picture of what a finished run predicts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from squeeze_cli.console import print_json
from squeeze_cli.errors import UsageError
from squeeze_cli.options import (
    EvaluationOptions,
    EvaluationSplit,
    OutputOptions,
    RunArgument,
    figure_option,
    option,
    with_options,
)

EXAMPLES = (
    "squeeze show runs/vq-efficientnet-lite0",
    "squeeze show runs/vq-efficientnet-lite0 --worst --images 8",
    "squeeze show runs/rvq-vit --baseline runs/baseline-vit --out rvq.png",
)
How = Literal["best", "worst", "random"]


@with_options()
def show(
    run: RunArgument,
    images: Annotated[int, option("--images", "Number of images.", "N", min=1, max=24)] = 5,
    best: Annotated[bool, option("--best", "Show the images with the highest IoU.")] = False,
    worst: Annotated[bool, option("--worst", "Show the images with the lowest IoU.")] = False,
    random: Annotated[bool, option("--random", "Show images drawn by --seed.")] = False,
    seed: Annotated[int | None, option("--seed", "Seed of --random. [default: 0]", "N")] = None,
    split: EvaluationSplit = "test",
    baseline: Annotated[
        Path | None,
        option(
            "--baseline", "Run to show beside it. [default: a baseline in the same folder]", "RUN"
        ),
    ] = None,
    out: Annotated[
        Path | None, figure_option("--out", "Picture, .png or .svg. [default: in RUN/figures/]")
    ] = None,
    *,
    data: EvaluationOptions,
    output: OutputOptions,
) -> None:
    """Draw images, ground truth, the baseline's predictions and the run's own, with their IoU.

    Images are spread evenly over the split unless --best, --worst or --random is given.
    """
    reporter = output.reporter()
    switches: dict[How, bool] = {"best": best, "worst": worst, "random": random}
    chosen = [how for how, on in switches.items() if on]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} contradict each other: take one.")
    if seed is not None and not random:
        raise UsageError("--seed means nothing without --random: add it, or leave --seed out.")
    from squeeze_cli.inference.show import show_run
    from squeeze_cli.inference.trained_run import TrainedRun

    def open_run(path: Path) -> TrainedRun:
        return TrainedRun(path, **vars(data))

    result = show_run(
        open_run(run), split, reporter, how=chosen[0] if chosen else "spread", count=images,
        seed=seed or 0, baseline=baseline, open_run=open_run, out=out,
    )  # fmt: skip
    if output.json:
        print_json(result)
    else:
        sys.stdout.write(f"{result['file']}\n")
