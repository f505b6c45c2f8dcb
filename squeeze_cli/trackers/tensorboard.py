"""The default tracker: TensorBoard events in the run's folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from squeeze_cli.runs import RunFolder


def create_tensorboard(run: RunFolder) -> TensorBoardLogger:
    """Events go to `runs/NAME/tensorboard/`: `tensorboard --logdir runs` shows all runs."""
    return TensorBoardLogger(save_dir=run.path, name="", version="tensorboard")


def add_pictures(run: RunFolder, files: Iterable[Path], step: int) -> None:
    """Show picture files in TensorBoard's tab of images, under `figures/` and their name."""
    from torch.utils.tensorboard import SummaryWriter

    # A writer of its own: Lightning has closed its when the test was over.
    with SummaryWriter(str(run.path / "tensorboard")) as writer:
        for file in files:
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            writer.add_image(f"figures/{file.stem}", pixels, step, dataformats="HWC")
