"""Table of results of every quantizer and the baseline on photographs, over several seeds.

    python -m benchmarks.results --data-dir ../shared/data --output-dir runs/results

Trains the runs that are not finished in the output folder (by `squeeze train` and `squeeze baseline`, in
this process), then writes the table between the results marks of docs/results.md from the run
records. Checkpoints are chosen on validation; the test split is only measured.
"""

from __future__ import annotations

import argparse
import statistics
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from squeeze_cli.cli import app
from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.config.record import FinishedRecord
from squeeze_cli.files import write_atomically
from squeeze_cli.reports.tables import MISSING, number
from squeeze_cli.runs import RunFolder

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("<!-- results:begin -->", "<!-- results:end -->")
KINDS = ("baseline", "none", "rvq", "fsq", "vq", "lfq")
HEADINGS = (
    "quantizer", "nominal bits per vector", "nominal bytes per image", "test mean IoU %",
    "val mean IoU %", "test accuracy %", "perplexity", "codes used in training %",
)  # fmt: skip


def train_missing(options: argparse.Namespace) -> None:
    """Train the runs without a finished record."""
    for seed in options.seeds:
        for kind in KINDS:
            run = options.output_dir / f"{kind}-{seed}"
            if not is_finished(run):
                command = ["baseline"] if kind == "baseline" else ["train", "--quantizer", kind]
                if kind not in ("baseline", "none"):
                    command += ["--codes", "plain"]
                run_command(command, run, seed, options)


def is_finished(path: Path) -> bool:
    """Return whether the run in this folder is finished."""
    run = RunFolder(path)
    return run.record_file.exists() and run.read_record().status == "finished"


def run_command(command: Sequence[str], run: Path, seed: int, options: argparse.Namespace) -> None:
    """Run a command of squeeze in this process, with the options that all runs share."""
    arguments = [
        *command, "--model", options.model, "--data-dir", str(options.data_dir),
        "--epochs", str(options.epochs), "--batch-size", str(options.batch_size),
        "--seed", str(seed), "--output-dir", str(run.parent), "--name", run.name,
        "--overwrite", "--no-progress",
    ]  # fmt: skip
    try:
        app(args=arguments)
    except SystemExit as ended:
        if ended.code:
            raise


def read_records(options: argparse.Namespace, kind: str) -> list[FinishedRecord]:
    """Return the finished records of one kind, one per seed."""
    return [
        RunFolder(options.output_dir / f"{kind}-{seed}").read_finished() for seed in options.seeds
    ]


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 1) -> str:
    """Return mean ± standard deviation over the seeds."""
    scaled = [scale * value for value in values]
    deviation = statistics.stdev(scaled) if len(scaled) > 1 else 0.0
    return f"{statistics.mean(scaled):.{digits}f} ± {deviation:.{digits}f}"


def by_level(records: Sequence[FinishedRecord], split: str, name: str, scale: float = 1.0) -> str:
    """Return the mean of a codebook's figure over the seeds, for each level."""
    levels = [getattr(getattr(record.metrics, split), name) for record in records]
    if not levels[0]:
        return MISSING
    means = [statistics.mean(seeds) * scale for seeds in zip(*levels, strict=True)]
    return " / ".join(f"{mean:.0f}" for mean in means)


def table_rows(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Make one row per quantizer."""
    for kind in KINDS:
        records = read_records(options, kind)
        quantizer = records[0].quantizer
        metrics = [record.metrics for record in records]
        yield (
            f"`{kind}`" if kind in QUANTIZERS else f"`squeeze {kind}`",
            number(quantizer.nominal_bits_per_vector),
            number(quantizer.nominal_bytes_per_image),
            spread([m.test.iou for m in metrics], 100),
            spread([m.val.iou for m in metrics], 100),
            spread([m.test.accuracy for m in metrics], 100),
            by_level(records, "test", "codebook_perplexity"),
            by_level(records, "train", "codebook_usage", 100),
        )


def markdown(options: argparse.Namespace) -> str:
    """Return the table, and a description of its measurement."""
    record = read_records(options, KINDS[0])[0]
    data = record.data
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" + "|---:" * (len(HEADINGS) - 1) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in table_rows(options)]
    words = (
        f"{options.model}, {data.train_images} training, {data.val_images} validation and "
        f"{data.test_images} test photographs at {data.size_text} px, "
        f"{options.epochs} epochs, batch size {options.batch_size}, seeds "
        f"{', '.join(map(str, options.seeds))}: mean ± standard deviation over the seeds, which "
        "also draw the train/validation split. The best epoch is chosen on validation. Rates are "
        "nominal: computed from the codes' sizes. Perplexity is that of the test codes; usage is "
        "over the training split with the chosen checkpoint; rvq has a figure for each level."
    )
    return "\n".join([*lines, "", fill(words)]) + "\n"


def fill(words: str) -> str:
    """Return a paragraph in lines of the length that pages of the documentation have."""
    return textwrap.fill(words, 100, break_on_hyphens=False)


def between_marks(text: str, content: str, marks: tuple[str, str] = MARKS) -> str:
    """Return `text` with the content between the marks replaced."""
    head, _, rest = text.partition(marks[0])
    _, _, tail = rest.partition(marks[1])
    return f"{head}{marks[0]}\n{content}{marks[1]}{tail}"


def training_options(description: str | None, output_dir: Path) -> argparse.ArgumentParser:
    """Return a parser with the options of benchmarks that train with several seeds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output-dir", type=Path, default=output_dir)
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    return parser


def main() -> None:
    """Train, read the records, write the pages."""
    options = training_options(__doc__, Path("runs/results")).parse_args()
    train_missing(options)
    content = markdown(options)
    page = ROOT / "docs" / "results.md"
    write_atomically(page, between_marks(page.read_text(encoding="utf-8"), content))
    print(content)


if __name__ == "__main__":
    main()
