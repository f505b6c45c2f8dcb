"""`squeeze show`: a picture of what a finished run predicts."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from squeeze_cli import options
from squeeze_cli.commands.evaluate import EvaluationSplit
from squeeze_cli.console import Reporter, print_json
from squeeze_cli.errors import UsageError

EXAMPLES = (
    "squeeze show runs/vq-efficientnet-lite0",
    "squeeze show runs/vq-efficientnet-lite0 --worst --images 8",
    "squeeze show runs/rvq-vit --baseline runs/baseline-vit --out rvq.png",
)
How = Literal["best", "worst", "random"]
Images = Annotated[
    int, typer.Option("--images", metavar="N", min=1, max=24, help="Number of images.")
]
Best = Annotated[bool, typer.Option("--best", help="Show the images with the highest IoU.")]
Worst = Annotated[bool, typer.Option("--worst", help="Show the images with the lowest IoU.")]
Random = Annotated[bool, typer.Option("--random", help="Show images drawn by --seed.")]
Seed = Annotated[
    int | None, typer.Option("--seed", metavar="N", help=r"Seed of --random. \[default: 0]")
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="RUN",
        help=r"Run to show beside it. \[default: a baseline in the same folder]",
    ),
]
Out = Annotated[
    Path | None,
    options.figure_option("--out", r"Picture, .png or .svg. \[default: in RUN/figures/]"),
]


def show(
    run: options.RunArgument,
    images: Images = 5,
    best: Best = False,
    worst: Worst = False,
    random: Random = False,
    seed: Seed = None,
    split: EvaluationSplit = "test",
    baseline: Baseline = None,
    out: Out = None,
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
    """Draw images, ground truth, the baseline's predictions and the run's own, with their IoU.

    Images are spread evenly over the split unless --best, --worst or --random is given.
    """
    reporter = Reporter(quiet, verbose, not no_progress)
    given: tuple[tuple[How, bool], ...] = (("best", best), ("worst", worst), ("random", random))
    chosen = [how for how, on in given if on]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} contradict each other: take one.")
    if seed is not None and not random:
        raise UsageError("--seed means nothing without --random: add it, or leave --seed out.")
    from squeeze_cli.inference.show import show_run
    from squeeze_cli.inference.trained_run import TrainedRun

    open_run = partial(
        TrainedRun, device=device, data_dir=data_dir, cache_dir=cache_dir, use_cache=use_cache,
        num_workers=num_workers, batch_size=batch_size,
    )  # fmt: skip
    result = show_run(
        open_run(run), split, reporter, how=chosen[0] if chosen else "spread", count=images,
        seed=seed or 0, baseline=baseline, open_run=open_run, out=out,
    )  # fmt: skip
    if json:
        print_json(asdict(result))
    else:
        sys.stdout.write(f"{result.file}\n")
