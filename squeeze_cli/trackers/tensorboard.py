"""The default tracker: TensorBoard events in the run's folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from squeeze_cli.console import Reporter
from squeeze_cli.runs import RunFolder
from squeeze_cli.trackers.guarded import GuardedLogger


def create_tensorboard(run: RunFolder, reporter: Reporter) -> GuardedLogger:
    """Return a logger of `runs/NAME/tensorboard/`: `tensorboard --logdir runs` shows all runs."""
    inner = TensorBoardLogger(save_dir=run.path, name="", version="tensorboard")
    return GuardedLogger(inner, "TensorBoard", reporter)


def add_pictures(run: RunFolder, files: Iterable[Path], step: int) -> None:
    """Show PNG files in TensorBoard's tab of images, under `figures/` and their name."""
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    # Lightning has closed its own writer at the end of the test.
    with SummaryWriter(str(run.path / "tensorboard")) as writer:
        for file in files:
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            writer.add_image(f"figures/{file.stem}", pixels, step, dataformats="HWC")
