"""Time of a training alone, and of two trainings that start at once on the same cores.

    python -m benchmarks.at_once --data-dir DIR

Waiting threads that keep their cores cost most here (`OPENMP_SPIN_COUNT` in `cli.py`). Both cases are
timed with squeeze's number of rounds, and with libgomp's default.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.table import Table

from benchmarks.machine import show
from benchmarks.processes import ROOT
from squeeze_cli.cli import OPENMP_SPIN_COUNT

_LIBGOMP = "300000"


def main() -> None:
    """Time each way once, after a training that fills the store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    table = Table("", "alone s", "two at once s", box=None, pad_edge=False)
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "squeeze_cli", "train", "--model", options.model,
            "--subset-size", str(options.images), "--epochs", str(options.epochs), "--overwrite",
            "--data-dir", str(options.data_dir.resolve()), "--cache-dir", f"{folder}/cache", "--quiet",
            "--output-dir", f"{folder}/runs",
        ]  # fmt: skip
        _seconds(command, 1, OPENMP_SPIN_COUNT)
        for name, rounds in (("squeeze", OPENMP_SPIN_COUNT), ("libgomp's own", _LIBGOMP)):
            figures[name] = [_seconds(command, count, rounds) for count in (1, 2)]
            table.add_row(name, *(f"{seconds:.1f}" for seconds in figures[name]))
    show(table, figures, options.json)


def _seconds(command: list[str], count: int, rounds: str) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    start = time.perf_counter()
    processes = [
        subprocess.Popen(
            [*command, "--name", f"run-{number}"],
            env={**environment, "GOMP_SPINCOUNT": rounds},
            cwd=ROOT,
        )
        for number in range(count)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit("A training failed.")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
