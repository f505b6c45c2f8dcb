"""The README's picture of test images, ground truth, and the predictions of two finished runs.

    python -m benchmarks.predictions runs/quickstart-baseline runs/quickstart

It is a picture of `squeeze show`, with images of the runs' own data. For the README they are drawn,
because photographs have licences of their own and are not in the repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.results import ROOT
from squeeze_cli.console import Reporter
from squeeze_cli.inference.show import show_run
from squeeze_cli.inference.trained_run import TrainedRun


def main() -> None:
    """Predict, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs=2, help="a baseline's folder and another run's")
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "predictions.png")
    options = parser.parse_args()
    baseline, run = options.runs
    show_run(
        TrainedRun(run), "test", Reporter(),
        count=options.images, baseline=baseline, out=options.output,
    )  # fmt: skip


if __name__ == "__main__":
    main()
