"""The default tracker: TensorBoard events in the run's folder."""

from __future__ import annotations

from lightning.pytorch.loggers import TensorBoardLogger

from squeeze_cli.runs import RunFolder


def create_tensorboard(run: RunFolder) -> TensorBoardLogger:
    """Events go to `runs/NAME/tensorboard/`: `tensorboard --logdir runs` shows all runs."""
    return TensorBoardLogger(save_dir=run.path, name="", version="tensorboard")
