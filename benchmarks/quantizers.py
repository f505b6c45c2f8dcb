"""Curves of all quantizers as general features, compared with codecs of FAISS with the same head.

    python -m benchmarks.quantizers --data-dir ../shared/data --seeds 1

Trains the runs that are not finished in the output folder (by `squeeze train` and `squeeze baseline`, in
this process), evaluates each run with `--neighbours`, then writes the table between the quantizers marks
of docs/results.md, and its figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.results import ROOT, between_marks, fill, is_finished, run_command, training_options
from squeeze_cli.api import open_run
from squeeze_cli.console import Reporter
from squeeze_cli.files import write_atomically
from squeeze_cli.inference.evaluation import evaluate_run
from squeeze_cli.reports.figures import save_figure

MARKS = ("<!-- quantizers:begin -->", "<!-- quantizers:end -->")
IMAGE = ROOT / "docs" / "images" / "quantizers.png"
# What each quantizer is asked for, from few bits to many.
OPTION = {
    "vq": "--codebook-size", "lfq": "--codebook-size", "fsq": "--levels",
    "rvq": "--num-quantizers", "pq": "--num-groups", "faiss": "--codec", "dct": "--step-size",
}  # fmt: skip
VALUES = {
    "dct": ("3.4", "1.7", "0.85", "0.42", "0.2", "0.1"),
    "rvq": ("1", "2", "4", "8", "16"),
    "pq": ("1", "2", "4", "8", "16"),
    "vq": ("8", "16", "64", "256", "512"),
    "fsq": ("4,4", "5,5,5", "8,5,5,5", "7,5,5,5,5", "8,8,8,5,5,5"),
    "lfq": ("16", "64", "256", "512", "1024"),
    "faiss": (
        "PCA64,PQ1x9", "PCA64,RQ2x8", "PCA64,RQ4x8", "OPQ8_64,PQ8x8", "OPQ16_128,PQ16x8",
        "PCA64,SQ8",
    ),
}  # fmt: skip
HEADINGS = (
    "`squeeze train --quantizer` ...", "measured bits per vector", "MSE", "cosine",
    "neighbours kept, images %", "patches %", "test mean IoU %", "% of baseline",
)  # fmt: skip


class Row(NamedTuple):
    """Figures of a run on the test split; shares are 0 to 1."""

    kind: str
    value: str
    bits: float
    mse: float
    cosine: float
    images: float
    patches: float
    iou: float
    retained: float


def run_of(options: argparse.Namespace, kind: str, value: str = "") -> Path:
    """Return the folder of a run of the first seed."""
    name = f"{kind}-{value}-{options.seeds[0]}" if value else f"{kind}-{options.seeds[0]}"
    folder: Path = options.output_dir / name
    return folder


def train_missing(options: argparse.Namespace) -> None:
    """Train the runs without a finished record."""
    commands = {run_of(options, "baseline"): ["baseline"]}
    for kind in options.kinds:
        for value in VALUES[kind]:
            command = ["train", "--quantizer", kind, OPTION[kind], value]
            commands[run_of(options, kind, value)] = command
    for run, command in commands.items():
        if not is_finished(run):
            run_command(command, run, options.seeds[0], options)


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Return a row for each run."""
    baseline = open_run(run_of(options, "baseline"), None).record.metrics.test.iou
    for kind in options.kinds:
        for value in VALUES[kind]:
            run = open_run(run_of(options, kind, value), None)
            found = evaluate_run(run, "test", Reporter(quiet=True), neighbours=True).metrics
            assert run.record.measured is not None
            bits = run.record.measured.test.bits_per_vector
            figures = (
                found.mse, found.cosine, found.neighbours_images, found.neighbours_patches,
                found.iou,
            )  # fmt: skip
            mse, cosine, images, patches, iou = (float(each or 0) for each in figures)
            yield Row(kind, value, bits, mse, cosine, images, patches, iou, iou / baseline)


def markdown(rows: list[Row], options: argparse.Namespace) -> str:
    """Return the table, and a description of its measurement."""
    data = open_run(run_of(options, "baseline"), None).record.data
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" + "|---:" * (len(HEADINGS) - 1) + "|"]
    for row in rows:
        cells = (
            f"`{row.kind} {OPTION[row.kind]} {row.value}`", f"{row.bits:.2f}", f"{row.mse:.3f}",
            f"{row.cosine:.3f}", f"{100 * row.images:.0f}", f"{100 * row.patches:.0f}",
            f"{100 * row.iou:.1f}", f"{100 * row.retained:.1f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    words = (
        f"{options.model}, {data.train_images} training, {data.val_images} validation and "
        f"{data.test_images} test photographs at {data.size_text} px, {options.epochs} epochs, batch "
        f"size {options.batch_size}, seed {options.seeds[0]}. Bits are those of the whole file of the "
        "test split's codes. Decoding every vector to the mean feature gives an MSE of 1. Neighbours "
        "kept is the share of the ten nearest neighbours by cosine among original features that are "
        "also among the ten nearest of the decoded features: for the images' mean features, and for "
        "3,000 single vectors (patches)."
    )
    return "\n".join([*lines, "", fill(words)]) + "\n"


def draw(rows: list[Row]) -> None:
    """Draw MSE, neighbours kept and retention against the bits per vector."""
    from matplotlib.figure import Figure

    figure = Figure((9.6, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    panels = (
        ("MSE of normalized features", lambda row: row.mse),
        ("% of neighbours kept, vectors", lambda row: 100 * row.patches),
        ("% of the baseline's test mean IoU", lambda row: 100 * row.retained),
    )
    for plot, (label, value) in zip(axes, panels, strict=True):
        for kind in dict.fromkeys(row.kind for row in rows):
            points = [(row.bits, value(row)) for row in rows if row.kind == kind]
            style = "s--" if kind == "faiss" else "o-"
            plot.plot(*zip(*points, strict=True), style, label=kind, markersize=3)
        plot.set(xlabel="measured bits per vector", xscale="log", ylabel=label)
    axes[0].legend(fontsize="small")
    save_figure(figure, IMAGE)


def main() -> None:
    """Train, measure, write table and picture."""
    parser = training_options(__doc__, Path("runs/quantizers"))
    parser.add_argument("--kinds", nargs="+", choices=list(VALUES), default=list(VALUES))
    parser.add_argument("--no-pages", action="store_true", help="train only")
    options = parser.parse_args()
    train_missing(options)
    if options.no_pages:
        return
    rows = list(measure(options))
    page = ROOT / "docs" / "results.md"
    content = markdown(rows, options)
    write_atomically(page, between_marks(page.read_text(encoding="utf-8"), content, MARKS))
    print(content)
    draw(rows)


if __name__ == "__main__":
    main()
