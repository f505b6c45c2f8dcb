"""The inputs that cases start from: data, finished runs and what was extracted with them.

pets/           a data folder in the layout of Oxford-IIIT Pet: 10 trainval and 4 test images
images/ masks/  12 images in a folder, with index masks of the values 0 and 1
runs/vq         a finished run on pets/, with `vq`
runs/base       the baseline beside it
runs/recon      a finished run on images/ without masks
runs/stopped    runs/vq as it stands when it is killed after its epoch, of two
codes/ features/  what `extract-embeddings` of runs/vq wrote for images/
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from squeeze_cli.cli import app
from tests.cases.table import TINY_TRAINING, inside
from tests.pets import TINY_NAMES, noise_image, write_layout


def write_folder(folder: Path, count: int = 12) -> None:
    """Write images/ and masks/ with a square of value 1 on 0 in each mask."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number in range(count):
        noise_image(47, 31, number).save(folder / "images" / f"photo_{number}.jpg")
        mask = np.zeros((31, 47), np.uint8)
        mask[8:20, 10 + number : 25 + number] = 1
        Image.fromarray(mask).save(folder / "masks" / f"photo_{number}.png")


def build(stock: Path) -> None:
    """Make everything in the empty folder `stock`."""
    write_layout(stock / "pets", TINY_NAMES)
    write_folder(stock)
    squeeze(stock, f"train {TINY_TRAINING} --quantizer vq --data-dir pets --name vq")
    squeeze(stock, f"baseline {TINY_TRAINING} --data-dir pets --name base")
    squeeze(stock, f"train {TINY_TRAINING} --quantizer fsq --images images --name recon")
    squeeze(stock, "extract-embeddings runs/vq --images images --out codes")
    squeeze(stock, "extract-embeddings runs/vq --images images --format features --out features")
    squeeze(
        stock,
        f"train {TINY_TRAINING} --epochs 2 --quantizer vq --data-dir pets --name stopped",
    )
    stop(stock / "runs" / "stopped")


def stop(run: Path) -> None:
    """Bring a finished run of two epochs to the state after its training, before its results."""
    record = json.loads((run / "run.json").read_text())
    record["status"] = "running"
    (run / "run.json").write_text(json.dumps(record))
    shutil.rmtree(run / "codes")
    shutil.rmtree(run / "figures", ignore_errors=True)
    (run / "prior.safetensors").unlink(missing_ok=True)


def squeeze(folder: Path, command: str) -> str:
    """Run a command line that must succeed, in `folder`, and return what it prints."""
    with inside(folder):
        result = CliRunner().invoke(app, command.split(), env={"COLUMNS": "80"})
    if result.exit_code:
        raise RuntimeError(f"squeeze {command}\n{result.output}") from result.exception
    return result.stdout
