"""Bits per vector of validation codes under priors that are fitted again, and the time of the fit.

    python -m benchmarks.prior runs/vq runs/rvq --seeds 3

The codes of the training images are extracted to a temporary folder; a prior is then fitted to them with
each seed, as at the end of a training. Runs whose codes have a prior can be given, but not those of dct.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from squeeze_cli.api import extract, open_run
from squeeze_cli.codec.prior_fitting import fit_prior
from squeeze_cli.inference.trained_run import TrainedRun


def read_codes(run: TrainedRun, files: list[Path]) -> NDArray[np.integer]:
    """Return the codes `[n, h, w, Q]` of codes files."""
    codes = [np.asarray(codes) for file in files for _, codes in run.open(file).batches()]
    return np.concatenate(codes)


def main() -> None:
    """Fit the priors, and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print(
        "| run | training images | bits per vector | spread | seconds |\n|---|---:|---:|---:|---:|"
    )
    for folder in options.runs:
        run = open_run(folder, device="cpu")
        with tempfile.TemporaryDirectory(prefix="squeeze-benchmark-") as place:
            extract(folder, split="train", out=f"{place}/codes")
            train = read_codes(run, sorted(Path(place, "codes").glob("*.sqz")))
        val = read_codes(run, [folder / "codes" / "val.sqz"])
        vectors = run.network.quantizer.code_vectors()
        bits, seconds = [], []
        for seed in range(options.seeds):
            start = time.perf_counter()
            prior = fit_prior(train, vectors, seed=seed)
            seconds.append(time.perf_counter() - start)
            bits.append(float(prior.slots(val).bits) / val[..., 0].size)
        print(
            f"| {folder.name} | {len(train)} | {mean(bits):.4f} | {max(bits) - min(bits):.4f} "
            f"| {min(seconds):.1f} |",
            flush=True,
        )
    print(f"\n{describe_machine()}")


if __name__ == "__main__":
    main()
