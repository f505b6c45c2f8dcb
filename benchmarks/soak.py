"""Resources of one process that trains, encodes and decodes many times, to find leaks.

    python -m benchmarks.soak --trainings 100 --calls 1000

Trains runs of all quantizers in turn by `squeeze_cli.api.train` on drawn images, then writes and reads
codes files by one opened run. Open files, threads, child processes and resident memory are measured
after each; their growth since the first tenth is the leak.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.table import Table

from benchmarks.machine import show
from squeeze_cli.config.parts import QUANTIZERS

TINY = {
    "model.backbone": "efficientnet-lite0", "data.dataset": "synthetic", "data.image_size": 64,
    "data.subset_size": 10, "data.num_workers": 0, "training.epochs": 1, "training.max_batches": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Held:
    """Resources of a process at one time."""

    open_files: int
    threads: int
    children: int
    memory_mib: float


def held() -> Held:
    """Measure the resources of this process."""
    process = psutil.Process()
    with process.oneshot():
        return Held(
            process.num_fds(), process.num_threads(), len(process.children(recursive=True)),
            process.memory_info().rss / 2**20,
        )  # fmt: skip


def repeat(action: Callable[[int], None], times: int) -> list[Held]:
    """Call a function `times` times, and measure after each call."""
    counted = []
    for number in range(times):
        action(number)
        time.sleep(0.02)  # a thread that has ended may still be listed for a moment
        counted.append(held())
    return counted


def trainings(folder: Path, times: int) -> list[Held]:
    """Train runs, each of which replaces the previous one with its quantizer."""
    from squeeze_cli.api import train
    from squeeze_cli.config.resolve import with_values
    from squeeze_cli.config.schema import ExperimentConfig

    names = list(QUANTIZERS)
    config = with_values(ExperimentConfig(output_dir=str(folder / "runs")), TINY)

    def train_one(number: int) -> None:
        quantizer = names[number % len(names)]
        train(quantizer, config=config, name=quantizer, overwrite=True)

    return repeat(train_one, times)


def calls(folder: Path, times: int) -> list[Held]:
    """Write codes of the test images to a file and read them back, features and masks included."""
    from squeeze_cli.api import open_run

    run = open_run(folder / "runs" / "vq")
    stored = run.open(run.folder.codes_folder / "test.sqz")
    codes, names = stored.read(), stored.names
    file = folder / "codes.sqz"

    def call(number: int) -> None:
        file.write_bytes(run.encode(codes, names, "prior" if number % 2 else "packed"))
        read = run.open(file).read()
        if not (read == codes).all():
            raise RuntimeError(f"call {number} decoded other codes")
        run.features(read)
        run.masks(read)

    return repeat(call, times)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trainings", type=int, default=100)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    table = Table(title="What one process holds", title_justify="left")
    for heading in ("", "open files", "threads", "children", "memory MiB"):
        table.add_column(heading, justify="right" if heading else "left")
    began = time.perf_counter()
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, work, times in (
            ("trainings", trainings, options.trainings),
            ("calls", calls, options.calls),
        ):
            counted = work(Path(folder), times)
            for number in sorted({0, times // 10, times // 2, times - 1}):
                row = counted[number]
                table.add_row(
                    f"after {number + 1} {kind}", str(row.open_files), str(row.threads),
                    str(row.children), f"{row.memory_mib:.0f}",
                )  # fmt: skip
            figures[kind] = [asdict(row) for row in counted]
    figures["seconds"] = time.perf_counter() - began
    show(table, figures, options.json)


if __name__ == "__main__":
    main()
