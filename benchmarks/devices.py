"""Agreement of a GPU with the CPU, on runs that the GPU trained.

    python -m benchmarks.devices --quantizers vq fsq lfq rvq --data-dir ../shared/data

Both devices extract the codes of the test images, decode the codes that the GPU chose to features and
masks, and measure the mean IoU, always from the images. Codes are whole numbers, which any machine reads
from the file without a difference. Features and logits are sums, which the devices round differently.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import figures_table, show, weights_at_hand
from benchmarks.processes import ROOT
from squeeze_cli.api import extract
from squeeze_cli.config.parts import BACKBONES, QUANTIZERS
from squeeze_cli.console import Reporter
from squeeze_cli.inference.evaluation import evaluate_run
from squeeze_cli.inference.trained_run import TrainedRun

DEVICES = ("cuda", "cpu")


@dataclass(frozen=True)
class Agreement:
    """Agreement of both devices on the test images of a run.

    Attributes:
        same_codes: Whether the GPU's codes, extracted twice, are the same in a file that the prior has
            coded and in a packed one.
        equal_codes: Share of the codes that both devices choose.
        feature_difference: Largest difference of features that the devices decode from the same codes,
            in standard deviations.
        equal_pixels: Share of pixels that the devices give the same class, from the same codes.
        iou_gpu, iou_cpu: Test mean IoU that each device measures.
    """

    same_codes: bool
    equal_codes: float
    feature_difference: float
    equal_pixels: float
    iou_gpu: float
    iou_cpu: float


def compare(path: Path) -> Agreement:
    """Compare both devices on the test images of the run in the folder `path`."""
    values = [{"training.device": device, "data.use_cache": False} for device in DEVICES]
    gpu, cpu = (TrainedRun(path, each) for each in values)

    def codes(device: str, coding: str) -> np.ndarray:
        out = path / f"{device}-{coding}"
        extract(path, split="test", out=out, device=device, coding=coding, use_cache=False)  # type: ignore[arg-type]
        (file,) = out.glob("*.sqz")
        return cpu.open(file).read()

    chosen = codes("cuda", "packed")
    features = [each.decoded(chosen) for each in (gpu, cpu)]
    masks = [each.masks(chosen) for each in (gpu, cpu)]
    ious = [evaluate_run(each, "test", Reporter(quiet=True)).metrics.iou for each in (gpu, cpu)]
    return Agreement(
        same_codes=np.array_equal(codes("cuda", "prior"), chosen),
        equal_codes=float(np.mean(codes("cpu", "packed") == chosen)),
        feature_difference=float((features[0] - features[1]).abs().max() / features[1].std()),
        equal_pixels=float(np.mean(masks[0] == masks[1])),
        iou_gpu=ious[0] or 0.0,
        iou_cpu=ious[1] or 0.0,
    )


def main() -> None:
    """Train each quantizer on the GPU, compare the devices, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", type=BACKBONES.check, default=["vit"])
    parser.add_argument("--quantizers", nargs="+", choices=QUANTIZERS, default=["vq"])
    parser.add_argument("--images", type=int, default=100, help="of trainval; as many of test")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this machine has no GPU that torch can use")
    table = figures_table(None, (
        "", "codes read", "equal codes %", "features differ by", "equal pixels %", "IoU GPU", "IoU CPU",
    ))  # fmt: skip
    figures = {}
    for backbone in options.backbones:
        for quantizer in options.quantizers:
            with tempfile.TemporaryDirectory(prefix="squeeze-benchmark-") as folder:
                subprocess.run(
                    [sys.executable, "-m", "squeeze_cli", "train", "--quantizer", quantizer,
                     "--model", backbone, "--weights", weights_at_hand(backbone), "--quiet",
                     "--device", "cuda",
                     "--data-dir", str(options.data_dir.resolve()), "--subset-size", str(options.images),
                     "--epochs", str(options.epochs), "--output-dir", folder, "--name", "run",
                     "--cache-dir", f"{folder}/cache"],
                    cwd=ROOT, check=True,
                )  # fmt: skip
                found = compare(Path(folder, "run"))
            figures[f"{backbone} + {quantizer}"] = asdict(found)
            table.add_row(
                f"{backbone} + {quantizer}", "same" if found.same_codes else "OTHER",
                f"{100 * found.equal_codes:.2f}", f"{found.feature_difference:.0e}",
                f"{100 * found.equal_pixels:.3f}", f"{100 * found.iou_gpu:.2f}",
                f"{100 * found.iou_cpu:.2f}",
            )  # fmt: skip
    show(table, figures, options.json)


if __name__ == "__main__":
    main()
