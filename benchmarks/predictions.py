"""The README's picture: test images, ground truth, and what two finished runs predict.

    python -m benchmarks.predictions runs/quickstart-baseline runs/quickstart

The images are those of the runs' own data. For the README they are drawn ones: photographs have a
licence of their own and stay out of the repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from squeeze_cli.console import Reporter
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.files import replacing
from squeeze_cli.training.evaluation import TrainedRun, load_run
from squeeze_cli.training.fit import load_splits

ROOT = Path(__file__).resolve().parents[1]
# Pet blue, border orange (both apart for the colour-blind), background as it is.
COLOURS = {0: (0.00, 0.45, 0.70), 2: (0.90, 0.62, 0.00)}
OPACITY = 0.6


def overlay(pixels: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
    """The image `[H, W, 3]` (0 to 1) with the mask's classes laid over it."""
    shown = pixels.copy()
    for value, colour in COLOURS.items():
        where = mask == value
        shown[where] = (1 - OPACITY) * shown[where] + OPACITY * np.array(colour)
    return shown


@torch.inference_mode()
def predict(run: TrainedRun, images: torch.Tensor) -> NDArray[Any]:
    """Class indices `[B, H, W]` of preprocessed images."""
    state = run.backbone.extract_features(images)
    logits, _ = run.module.predict_logits(state, tuple(images.shape[-2:]))
    return logits.argmax(dim=1).numpy()


def main() -> None:
    """Predict, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs=2, help="a baseline's folder and another run's")
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "predictions.png")
    options = parser.parse_args()
    runs = [load_run(path, torch.device("cpu")) for path in options.runs]
    size = runs[0].config.data.image_size
    test = load_splits(runs[0].config, Reporter()).test
    # Evenly spaced over the test split: nobody picked them.
    chosen = [test[i * len(test) // options.images] for i in range(options.images)]
    preprocessing = Preprocessing(size)
    loaded = [sample.load() for sample in chosen]
    images = torch.stack([preprocessing.image(image) for image, _ in loaded])
    masks = [preprocessing.mask(mask).numpy() for _, mask in loaded if mask is not None]
    pixels = [np.asarray(image.resize((size, size))) / 255 for image, _ in loaded]
    predictions = [predict(run, images) for run in runs]
    bits = runs[1].record["quantizer"]["nominal_bits_per_vector"]
    titles = ["image", "ground truth", "unquantized", f"{bits:.3g} bits a vector"]
    columns = [pixels, *([overlay(p, m) for p, m in zip(pixels, each, strict=True)]
                         for each in (masks, *predictions))]  # fmt: skip
    draw(columns, titles, options.output)


def draw(columns: list[list[NDArray[Any]]], titles: list[str], output: Path) -> None:
    """A grid of pictures, a column each title, saved as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(titles), len(columns[0]), figsize=(1.5 * len(columns[0]), 1.5 * len(titles) + 0.2)
    )
    for row, (title, pictures) in enumerate(zip(titles, columns, strict=True)):
        for column, picture in enumerate(pictures):
            axis = axes[row][column]
            axis.imshow(picture)
            axis.set_xticks([])
            axis.set_yticks([])
            if column == 0:
                axis.set_ylabel(title, fontsize=8)
    figure.tight_layout(pad=0.3)
    with replacing(output) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


if __name__ == "__main__":
    main()
