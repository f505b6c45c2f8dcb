"""First levels of one run of rvq with dropout, compared with runs that were trained for each rate.

    python -m benchmarks.levels --data-dir ../shared/data

Trains the runs that are not finished in the output folder (by `squeeze train` and `squeeze baseline`, in
this process), measures the first levels of the run with dropout by `--levels` on the test split, then
writes the table between the levels marks of docs/results.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.results import (
    ROOT,
    between_marks,
    fill,
    is_finished,
    run_command,
    training_options,
)
from squeeze_cli.api import extract, open_run
from squeeze_cli.console import Reporter
from squeeze_cli.files import write_atomically
from squeeze_cli.inference.evaluation import evaluate_run

MARKS = ("<!-- levels:begin -->", "<!-- levels:end -->")
RVQ = "--quantizer rvq --rate-weight 0.03"
MOST_LEVELS = 4
# Levels of the runs that are trained for one rate each.
OWN_LEVELS = (1, 2, 4)
BASELINE, PROGRESSIVE = "baseline", "progressive"
HEADINGS = (
    "training", "levels", "measured bits per vector", "bytes per image", "test mean IoU %",
    "% of baseline", "MSE", "cosine",
)  # fmt: skip
ONE, OWN = "one, `--quantizer-dropout`", "one for each number of levels"


class Measured(NamedTuple):
    """Figures of the first levels of a run on the test split."""

    bits: float
    bytes_per_image: float
    iou: float
    mse: float
    cosine: float


def own_name(levels: int) -> str:
    """Return the name of the run that was trained with this number of levels."""
    return f"rvq-{levels}"


def train_missing(options: argparse.Namespace) -> None:
    """Train the runs without a finished record, one seed after the other."""
    rvq = ["train", *RVQ.split()]
    commands = {
        BASELINE: ["baseline"],
        PROGRESSIVE: [*rvq, "--num-quantizers", str(MOST_LEVELS), "--quantizer-dropout"],
        **{own_name(n): [*rvq, "--num-quantizers", str(n)] for n in OWN_LEVELS},
    }
    for seed in options.seeds:
        for name, command in commands.items():
            run = options.output_dir / f"{name}-{seed}"
            if not is_finished(run):
                run_command(command, run, seed, options)


def measure(run: Path, levels: int) -> Measured:
    """Write the codes of the first levels of the test images, and evaluate them."""
    with TemporaryDirectory() as folder:
        size = extract(run, levels=levels, out=Path(folder) / "codes", device=None)
    opened = open_run(run, None, levels)
    metrics = evaluate_run(opened, "test", Reporter(quiet=True)).metrics
    figures = (size.bits_per_vector, size.bytes_per_image, metrics.iou, metrics.mse, metrics.cosine)
    known = [figure for figure in figures if figure is not None]
    return Measured(*known)


def table_rows(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Give a row for each number of levels, of the progressive run and then of those of their own."""
    folder = options.output_dir
    baselines = [
        open_run(folder / f"{BASELINE}-{seed}", None).record.metrics.test for seed in options.seeds
    ]
    chosen = [(ONE, PROGRESSIVE, n) for n in range(1, MOST_LEVELS + 1)]
    chosen += [(OWN, own_name(n), n) for n in OWN_LEVELS]
    for training, name, levels in chosen:
        found = [measure(folder / f"{name}-{seed}", levels) for seed in options.seeds]
        retained = [
            each.iou / base.iou
            for each, base in zip(found, baselines, strict=True)
            if base is not None and base.iou
        ]
        mean = Measured(*map(statistics.mean, zip(*found, strict=True)))
        yield (
            training, str(levels), f"{mean.bits:.2f}", f"{mean.bytes_per_image:.0f}",
            f"{100 * mean.iou:.1f}", f"{100 * statistics.mean(retained):.1f}", f"{mean.mse:.3f}",
            f"{mean.cosine:.3f}",
        )  # fmt: skip


def markdown(options: argparse.Namespace) -> str:
    """Return the table, and a description of its measurement."""
    data = open_run(options.output_dir / f"{PROGRESSIVE}-{options.seeds[0]}", None).record.data
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" + "|---:" * (len(HEADINGS) - 1) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in table_rows(options)]
    seeds = ", ".join(map(str, options.seeds))
    words = (
        f"{options.model}, {data.train_images} training, {data.val_images} validation and "
        f"{data.test_images} test photographs at {data.size_text} px, {options.epochs} epochs, batch "
        f"size {options.batch_size}, {'seed' if len(options.seeds) == 1 else 'means over seeds'} "
        f"{seeds}; `squeeze train {RVQ}` with 256 codes per level. Bits are those of "
        "the whole file of the test split's codes. Decoding every vector to the mean feature gives an "
        "MSE of 1."
    )
    return "\n".join([*lines, "", fill(words)]) + "\n"


def main() -> None:
    """Train, measure, write the table."""
    options = training_options(__doc__, Path("runs/levels")).parse_args()
    train_missing(options)
    page = ROOT / "docs" / "results.md"
    content = markdown(options)
    write_atomically(page, between_marks(page.read_text(encoding="utf-8"), content, MARKS))
    print(content)


if __name__ == "__main__":
    main()
