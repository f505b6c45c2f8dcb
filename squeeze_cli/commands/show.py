"""`squeeze show`: a picture of what a finished run predicts."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from squeeze_cli.commands.evaluate import EVALUATION_FLAGS, run_options
from squeeze_cli.commands.output import check_figure_name, make_reporter, print_json
from squeeze_cli.errors import UsageError
from squeeze_cli.options import takes

EXAMPLES = (
    "squeeze show runs/vq-efficientnet-lite0",
    "squeeze show runs/vq-efficientnet-lite0 --worst --images 8",
    "squeeze show runs/rvq-vit --baseline runs/baseline-vit --out rvq.png",
)


How = Literal["spread", "best", "worst", "random"]


@takes(EVALUATION_FLAGS)
def show(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", show_default=False)],
    images: Annotated[
        int, typer.Option("--images", metavar="N", min=1, max=24, help="How many.")
    ] = 5,
    best: Annotated[bool, typer.Option("--best", help="Those with the highest IoU.")] = False,
    worst: Annotated[bool, typer.Option("--worst", help="Those with the lowest IoU.")] = False,
    random: Annotated[bool, typer.Option("--random", help="Any, drawn by --seed.")] = False,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", help=r"Of --random. \[default: 0]", show_default=False),
    ] = None,
    split: Annotated[
        Literal["test", "val"], typer.Option("--split", help="Which images.")
    ] = "test",
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline", metavar="RUN", show_default=False,
            help=r"Run to show beside it. \[default: a baseline in the same folder]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", show_default=False,
            help=r"Picture, .png or .svg. \[default: in RUN/figures/]",
        ),
    ] = None,
    **flags: Any,
) -> None:  # fmt: skip
    """Draw images, ground truth, the baseline's predictions and the run's own, with their IoU.

    Images are spread evenly over the split unless --best, --worst or --random is given.
    """
    reporter = make_reporter(flags)
    given: tuple[tuple[How, bool], ...] = (("best", best), ("worst", worst), ("random", random))
    choices = [how for how, on in given if on]
    if len(choices) > 1:
        raise UsageError(f"--{choices[0]} and --{choices[1]} contradict each other: take one.")
    if seed is not None and not random:
        raise UsageError("--seed means nothing without --random: add it, or leave --seed out.")
    check_figure_name("--out", out)
    from squeeze_cli.inference.show import show_run
    from squeeze_cli.inference.trained_run import TrainedRun

    options = run_options(flags)
    result = show_run(
        TrainedRun(run, **options), split, reporter,
        how=choices[0] if choices else "spread", count=images, seed=seed or 0, out=out,
        baseline=baseline, open_run=lambda path: TrainedRun(path, **options),
    )  # fmt: skip
    if flags.get("json"):
        print_json(asdict(result))
    else:
        sys.stdout.write(f"{result.file}\n")
