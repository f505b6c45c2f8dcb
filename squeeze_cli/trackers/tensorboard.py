"""The default tracker: TensorBoard events in the run's folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from squeeze_cli.runs import RunFolder


def create_tensorboard(run: RunFolder) -> TensorBoardLogger:
    """Events go to `runs/NAME/tensorboard/`: `tensorboard --logdir runs` shows all runs."""
    return TensorBoardLogger(save_dir=run.path, name="", version="tensorboard")


def add_pictures(run: RunFolder, files: Iterable[Path], step: int) -> None:
    """Show PNG files in TensorBoard's tab of images, under `figures/` and their name."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
    from torch.utils.tensorboard import SummaryWriter

    # A writer of its own: Lightning has closed its when the test was over.
    with SummaryWriter(str(run.path / "tensorboard")) as writer:
        for file in files:
            with Image.open(file) as picture:
                width, height = picture.size
            # As they are: `add_image` would decode and encode them again.
            shown = Summary.Image(
                encoded_image_string=file.read_bytes(), width=width, height=height, colorspace=3
            )
            value = Summary.Value(tag=f"figures/{file.stem}", image=shown)
            writer._get_file_writer().add_summary(Summary(value=[value]), step)
