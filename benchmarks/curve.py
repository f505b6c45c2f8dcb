"""Rate-accuracy curve of encoders, distillation and the rate in the loss, over several seeds.

    python -m benchmarks.curve --data-dir ../shared/data

Trains the runs that are not finished in the output folder (by `squeeze train` and `squeeze baseline`, in
this process). From the run records it writes the table between the curve marks of docs/results.md, its
main columns into the README, and the figure. Checkpoints are chosen on validation; the test split is only
measured. Retention is the test mean IoU divided by that of `squeeze baseline` with the same seed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.results import (
    ROOT,
    between_marks,
    fill,
    is_finished,
    run_command,
    spread,
    training_options,
)
from squeeze_cli.config.record import FinishedRecord
from squeeze_cli.files import write_atomically
from squeeze_cli.reports.figures import save_figure
from squeeze_cli.runs import RunFolder

MARKS = ("<!-- curve:begin -->", "<!-- curve:end -->")
SUMMARY_MARKS = ("<!-- curve-summary:begin -->", "<!-- curve-summary:end -->")
IMAGE = ROOT / "docs" / "images" / "curve.png"
BASELINE, TEACHER = "baseline", "baseline-conv"
TASK = "train --codes task --distill TEACHER"
COMMANDS = {
    BASELINE: "baseline",
    TEACHER: "baseline --encoder conv",
    "linear": "train --codes plain",
    "faithful-512-rate-0.03": "train",
    "dct": "train --quantizer dct",
    "dct-1.7": "train --quantizer dct --step-size 1.7",
    "masks-dct": f"{TASK} --quantizer dct",
    "task-8-rate-0.1": f"{TASK} --quantizer vq",
    "fsq-5": f"{TASK} --levels 5",
    "fsq-3": f"{TASK} --levels 3",
    "fsq-5-stride-2": f"{TASK} --levels 5 --code-stride 2",
    "fsq-3-stride-2": f"{TASK} --levels 3 --code-stride 2",
    "task-3-stride-2": f"{TASK} --quantizer vq --codebook-size 3 --code-stride 2 --rate-weight 0.15 "
    "--encoder-lr-factor 0.3",
}
LEFT_OUT = (
    "linear",
    "task-8-rate-0.1",
    "fsq-3",
    "fsq-5-stride-2",
    "dct-1.7",
    "task-3-stride-2",
)  # of the README
LABELS = {
    "dct": "faithful, dct", "faithful": "faithful, vq", "fsq": "task, fsq", "masks": "task, dct",
    "task": "task, vq", "linear": "plain, vq",
}  # fmt: skip
HEADINGS = (
    "command", "measured bits per vector", "bits per feature point", "bytes per image",
    "test mean IoU %", "% of baseline", "MSE", "cosine",
)  # fmt: skip
Value = Callable[[FinishedRecord], float | None]
Row = tuple[list[FinishedRecord], list[float]]


def train_missing(options: argparse.Namespace) -> None:
    """Train the runs without a finished record, one seed after the other."""
    for seed in options.seeds:
        for name, command in COMMANDS.items():
            run = options.output_dir / f"{name}-{seed}"
            if is_finished(run):
                continue
            teacher = str(options.output_dir / f"{TEACHER}-{seed}")
            run_command(
                [part if part != "TEACHER" else teacher for part in command.split()],
                run, seed, options,
            )  # fmt: skip


def read_rows(options: argparse.Namespace) -> dict[str, Row]:
    """Return the records and the retention of each seed, by the names of `COMMANDS`."""

    def records(name: str) -> list[FinishedRecord]:
        return [
            RunFolder(options.output_dir / f"{name}-{seed}").read_finished()
            for seed in options.seeds
        ]

    baseline, rows = records(BASELINE), {}
    for name in COMMANDS:
        found = records(name)
        pairs = zip(found, baseline, strict=True)
        rows[name] = found, [each.metrics.test.iou / base.metrics.test.iou for each, base in pairs]
    return rows


def cells(records: Sequence[FinishedRecord], retained: Sequence[float]) -> Iterator[str]:
    """Give the figures of a row: means over the seeds, with the deviation of bits and mean IoU."""

    def over_seeds(
        value: Value, digits: int, scale: float = 1.0, *, deviation: bool = False
    ) -> str:
        values = [found for record in records if (found := value(record)) is not None]
        if len(values) < len(records):
            return "–"
        if deviation:
            return spread(values, scale, digits)
        return f"{scale * statistics.mean(values):,.{digits}f}"

    yield over_seeds(lambda r: r.measured and r.measured.test.bits_per_vector, 2, deviation=True)
    yield over_seeds(lambda r: r.measured and r.measured.test.bits_per_feature_point, 4)
    yield over_seeds(lambda r: r.measured and r.measured.test.bytes_per_image, 0)
    yield over_seeds(lambda r: r.metrics.test.iou, 1, 100, deviation=True)
    yield spread(retained, 100, 1)
    yield over_seeds(lambda r: r.metrics.test.mse, 3)
    yield over_seeds(lambda r: r.metrics.test.cosine, 3)


def markdown(rows: dict[str, Row], options: argparse.Namespace) -> str:
    """Return the table, and a description of its measurement."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" + "|---:" * (len(HEADINGS) - 1) + "|"]
    lines += [
        f"| {' | '.join((f'`squeeze {COMMANDS[name]}`', *cells(*row)))} |"
        for name, row in rows.items()
    ]
    data = rows[BASELINE][0][0].data
    words = (
        f"{options.model}, {data.train_images} training, {data.val_images} validation and "
        f"{data.test_images} test photographs at {data.size_text} px, {options.epochs} epochs, batch "
        f"size {options.batch_size}, seeds {', '.join(map(str, options.seeds))}: mean ± standard "
        "deviation over the seeds. TEACHER is the baseline with `--encoder conv` of the same seed; % of "
        "baseline compares with the run of the first row that has the same seed. Bits are those of the "
        "whole file of the test split's codes. Decoding every vector to the mean feature gives an MSE "
        "of 1."
    )
    return "\n".join([*lines, "", fill(words)]) + "\n"


def summary(rows: dict[str, Row], options: argparse.Namespace) -> str:
    """The means of the main columns, in lines of at most 100 characters."""
    lines = [
        "| `squeeze` ... | bits per vector | bytes per image | test mean IoU % | % of baseline |",
        "|---" + "|---:" * 4 + "|",
    ]
    for name, row in rows.items():
        if name in LEFT_OUT:
            continue
        bits, _, size, iou, retained, *_ = (cell.partition(" ")[0] for cell in cells(*row))
        command = COMMANDS[name].replace(TASK, "train TASK")
        lines.append(f"| `{command}` | {' | '.join((bits, size, iou, retained))} |")
    words = (
        f"{options.model}, {rows[BASELINE][0][0].data.test_images} test photographs, means over the "
        f"seeds {', '.join(map(str, options.seeds))}. TASK is `--codes task "
        "--distill RUN`, where RUN is the baseline with `--encoder conv`."
    )
    return "\n".join([*lines, "", fill(words)]) + "\n"


def draw(rows: dict[str, Row]) -> None:
    """Draw the seeds' means: bits on disk against the share of the baseline's mean IoU."""
    from matplotlib.figure import Figure

    figure = Figure((6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for kind, label in LABELS.items():
        points = sorted(
            (
                statistics.mean(r.measured.test.bits_per_vector for r in records if r.measured),
                100 * statistics.mean(retained),
            )
            for name, (records, retained) in rows.items()
            if name.startswith(kind)
        )
        axes.plot(*zip(*points, strict=True), "o-", label=label)
    axes.axhline(100, color="black", linewidth=1)
    axes.set(xlabel="measured bits per vector", ylabel="% of the baseline's test mean IoU")
    axes.legend()
    save_figure(figure, IMAGE)


def main() -> None:
    """Train, read the records, write table and picture."""
    parser = training_options(__doc__, Path("runs/curve"))
    parser.add_argument("--no-pages", action="store_true", help="train only")
    options = parser.parse_args()
    train_missing(options)
    if options.no_pages:
        return
    rows = read_rows(options)
    for page, content, marks in (
        (ROOT / "docs" / "results.md", markdown(rows, options), MARKS),
        (ROOT / "README.md", summary(rows, options), SUMMARY_MARKS),
    ):
        write_atomically(page, between_marks(page.read_text(encoding="utf-8"), content, marks))
        print(content)
    draw(rows)


if __name__ == "__main__":
    main()
