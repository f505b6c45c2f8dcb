"""Differences between two runs of one training command, in weights, prior, codes and mean IoU.

    python -m benchmarks.reproducible --data-dir DIR

Each way to run the command is compared with its first run, which fills an empty feature store.
docs/reliability.md has the figures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.machine import show
from benchmarks.processes import ROOT
from squeeze_cli.api import open_run
from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.runs import RunFolder


@dataclass(frozen=True)
class Way:
    """One way of running the command: further options, and environment variables.

    `store` names the feature store, which later ways with the same name find filled. `killed` ends the
    training after an epoch, like a power failure, and resumes it.
    """

    options: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    store: str = "first"
    killed: bool = False


FIRST = "first run"
WAYS = {
    FIRST: Way(),
    "again, with the filled store": Way(),
    "again, with an empty store": Way(store="second"),
    "--num-workers 0": Way(("--num-workers", "0"), store="third"),
    "killed after an epoch, and resumed": Way(killed=True),
    "one thread (OMP_NUM_THREADS=1)": Way(environment=(("OMP_NUM_THREADS", "1"),), store="fourth"),
    "--no-cache": Way(("--no-cache",), store=""),
    "another seed": Way(("--seed", "43")),
}


@dataclass(frozen=True)
class Agreement:
    """Agreement of a run with the first one.

    Attributes:
        weights, prior: Whether they are the same to the last bit; None without a prior.
        equal_codes: Share of the codes of the test images that are the same; None without codes.
        iou_difference: Test mean IoU minus that of the first run.
    """

    weights: bool
    prior: bool | None
    equal_codes: float | None
    iou_difference: float


def main() -> None:
    """Train every way for each quantizer, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--quantizers", nargs="+", default=list(QUANTIZERS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    table = Table(
        "", "way", "weights", "prior", "equal codes %", "test mean IoU", box=None, pad_edge=False
    )
    figures: dict[str, dict[str, dict[str, object]]] = {}
    for quantizer in options.quantizers:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable, "-m", "squeeze_cli", "train", "--quantizer", quantizer,
                "--model", options.model, "--data-dir", str(options.data_dir.resolve()),
                "--subset-size", str(options.images), "--epochs", str(options.epochs), "--quiet",
            ]  # fmt: skip
            runs = {}
            for number, (name, way) in enumerate(WAYS.items()):
                runs[name] = RunFolder(Path(folder, str(number), "run"))
                _train(command, runs[name], way, Path(folder, "stores", way.store))
            figures[quantizer] = {}
            for name, run in runs.items():
                if name != FIRST:
                    found = _compare(runs[FIRST], run)
                    figures[quantizer][name] = asdict(found)
                    table.add_row(quantizer, name, *_cells(found))
    show(table, figures, options.json)


def _train(command: list[str], run: RunFolder, way: Way, store: Path) -> None:
    """Train into the folder of `run`; raises RuntimeError if that fails."""
    environment = {**os.environ, **dict(way.environment)}
    placed = [*command, "--output-dir", str(run.path.parent), "--name", run.name]
    process = subprocess.Popen(
        [*placed, *(("--cache-dir", str(store)) if way.store else ()), *way.options],
        cwd=ROOT,
        env=environment,
    )
    while way.killed and process.poll() is None and not run.last_checkpoint.exists():
        time.sleep(0.01)
    if way.killed:
        process.kill()
        process.wait()
        resume = [*command[:4], "--resume", "--quiet", *placed[-4:]]
        process = subprocess.Popen(resume, cwd=ROOT, env=environment)
    if process.wait() != 0:
        raise RuntimeError(f"{' '.join(placed)} ended with {process.returncode}")


def _compare(first: RunFolder, other: RunFolder) -> Agreement:
    """Compare two finished runs."""
    ours, theirs = (each.read_finished() for each in (first, other))
    assert ours.metrics.test is not None
    assert theirs.metrics.test is not None
    difference = (theirs.metrics.test.iou or 0.0) - (ours.metrics.test.iou or 0.0)
    weights = ours.digest == theirs.digest
    if ours.measured is None or theirs.measured is None:
        return Agreement(weights, None, None, difference)
    codes = [_codes(each) for each in (first, other)]
    same = ours.measured.prior_digest == theirs.measured.prior_digest
    return Agreement(weights, same, float(np.mean(codes[0] == codes[1])), difference)


def _codes(run: RunFolder) -> np.ndarray:
    """Return the codes `[n, h, w, Q]` of the test images."""
    file = open_run(run.path, device="cpu").open(run.codes_folder / "test.sqz")
    return np.concatenate([codes for _, codes in file.batches()])


def _cells(found: Agreement) -> list[str]:
    """Return the table's cells of one way."""
    words = {True: "same", False: "other", None: "–"}
    codes = "–" if found.equal_codes is None else f"{100 * found.equal_codes:.2f}"
    iou = f"{100 * found.iou_difference:+.2f}"
    return [words[found.weights], words[found.prior], codes, iou]


if __name__ == "__main__":
    main()
