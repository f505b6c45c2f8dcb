"""Time from a command to the first training step, with many small images and masks.

    python -m benchmarks.start --images 10000

Draws a folder of JPEG images with a PNG mask each, in the layout of Oxford-IIIT Pet, and times the
stages before the first step: once with an empty feature store, once with a filled one, each in a
process of its own. It does the same with half as many images, to show which stages grow faster than
their number.

`masks` includes the building of the networks, `images` the backbone if the store is empty, and
`start` k-means and the first batch. CPU seconds count all threads of the process only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Table

from benchmarks.machine import show
from squeeze_cli.cli import OPENMP_SPIN_COUNT

SIDE_PX = 96
STAGES = ("imports", "masks", "images", "start")
CPU = "CPU"


def draw_folder(data_dir: Path, count: int) -> None:
    """Write `count` images, a fifth of them in the test split."""
    folder = data_dir / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations" / "trimaps").mkdir(parents=True)
    dice = np.random.default_rng(0)
    names = [f"image_{number:06d}" for number in range(count)]
    for name in names:
        coarse = dice.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((128, SIDE_PX), Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{name}.jpg")
        values = dice.integers(1, 4, (6, 8), dtype=np.uint8)
        mask = Image.fromarray(values).resize((128, SIDE_PX), Image.Resampling.NEAREST)
        mask.save(folder / "annotations" / "trimaps" / f"{name}.png")
    for split, listed in (("test", names[: count // 5]), ("trainval", names[count // 5 :])):
        lines = "".join(f"{name} 1 1 1\n" for name in listed)
        (folder / "annotations" / f"{split}.txt").write_text(lines, encoding="utf-8")


def time_start(data_dir: Path, cache_dir: Path, began: float) -> dict[str, float]:
    """Wall seconds of each of `STAGES` in this process, which `began` at this time, and CPU seconds."""
    from squeeze_cli.config.resolve import resolve_config
    from squeeze_cli.console import Reporter
    from squeeze_cli.training.callbacks import initialize
    from squeeze_cli.training.experiment import set_up

    times = [began, time.time()]
    values = {
        "model.backbone": "efficientnet-lite0", "data.data_dir": str(data_dir),
        "data.cache_dir": str(cache_dir), "data.image_size": SIDE_PX,
    }  # fmt: skip
    experiment = set_up(resolve_config("quantized", values), Reporter(quiet=True))
    times.append(time.time())
    experiment.data.setup()
    times.append(time.time())
    initialize(experiment)
    next(iter(experiment.data.train_dataloader()))
    times.append(time.time())
    seconds = [after - before for before, after in pairwise(times)]
    return dict(zip(STAGES, seconds, strict=True)) | {CPU: time.process_time()}


def measure(count: int) -> dict[str, dict[str, float]]:
    """Return figures for an empty and for a filled store."""
    with tempfile.TemporaryDirectory(prefix="squeeze-benchmark-") as place:
        data_dir, cache_dir = Path(place, "data"), Path(place, "cache")
        draw_folder(data_dir, count)
        figures = {}
        for state in ("empty", "filled"):
            command = [
                sys.executable, "-m", "benchmarks.start", "--child", str(data_dir), str(cache_dir),
                str(time.time()),
            ]  # fmt: skip
            done = subprocess.run(
                command, check=True, capture_output=True, text=True,
                env=os.environ | {"GOMP_SPINCOUNT": OPENMP_SPIN_COUNT},  # as `squeeze` sets it
            )  # fmt: skip
            figures[f"{count} images, {state}"] = json.loads(done.stdout)
        return figures


def main() -> None:
    """Time, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        data_dir, cache_dir, began = options.child
        print(json.dumps(time_start(Path(data_dir), Path(cache_dir), float(began))))
        return
    figures = measure(options.images // 2) | measure(options.images)
    table = Table(title="Seconds to the first step", title_justify="left")
    for column in ("", *STAGES, "sum", CPU):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, seconds in figures.items():
        stages = [seconds[stage] for stage in STAGES]
        table.add_row(name, *(f"{value:.1f}" for value in (*stages, sum(stages), seconds[CPU])))
    show(table, figures, options.json)


if __name__ == "__main__":
    main()
