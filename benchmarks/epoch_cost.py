"""Cost of encoders and parts of the loss: processor seconds per epoch on stored features, in one thread.

    python -m benchmarks.epoch_cost --data-dir ../shared/data

Each row trains two times, with one epoch and with several, in processes of their own; the difference per
epoch leaves out imports, the feature store, the prior and the codes files.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS = {
    "`--codes plain`": ("--codes", "plain"),
    "encoder and reconstruction": ("--rate-weight", "0"),
    "and the rate: `--codes faithful`": (),
}


def processor_seconds(command: list[str]) -> float:
    """Run a command; return the processor seconds of its processes."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    return used() - before


def main() -> None:
    """Train, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--quantizer", default="vq")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    print("| | processor s per epoch | ratio |\n|---|---:|---:|")
    first = 0.0
    with tempfile.TemporaryDirectory(prefix="squeeze-benchmark-") as place:
        for name, chosen in ROWS.items():
            command = [
                sys.executable, "-m", "squeeze_cli", "train", "--quantizer", options.quantizer,
                "--model", options.model, "--data-dir", str(options.data_dir), "--batch-size", "8",
                "--output-dir", place, "--name", "run", "--overwrite", "--quiet", *chosen,
            ]  # fmt: skip
            one = processor_seconds([*command, "--epochs", "1"])
            seconds = processor_seconds([*command, "--epochs", str(options.epochs)]) - one
            seconds /= options.epochs - 1
            first = first or seconds
            print(f"| {name} | {seconds:.2f} | {seconds / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
