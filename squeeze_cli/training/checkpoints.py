"""A run's weights on disk: written while it trains, loaded back after."""

from __future__ import annotations

import io
import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from squeeze_cli.errors import SqueezeError
from squeeze_cli.files import replacing
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.modules import BaselineSegmentationModule

# Writing may take this share of the time: AdamW's state of DeepLab's head is 130 MB.
WRITING_SHARE = 0.02


class Checkpoints(Callback):
    """Writes `best.ckpt` (weights, by val/iou) and `last.ckpt` (all that resuming needs).

    Both are written after the first epoch and the last, and between them after epochs, as often as
    `WRITING_SHARE` allows: every time where an epoch is long against the writing. The best weights
    wait in memory until then, so that the two files always tell of the same moment.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._best: dict[str, Any] | None = None  # not yet written
        self._next_at = 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights if they are the best; write if it is time."""
        assert isinstance(pl_module, BaselineSegmentationModule)
        scores = [epoch["val"]["iou"] for epoch in pl_module.history]
        if all(scores[-1] > score for score in scores[:-1]):
            self._best = {"epoch": trainer.current_epoch, "state_dict": _copy(pl_module)}
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if last or time.monotonic() >= self._next_at:
            self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        start = time.monotonic()
        if self._best is not None:
            # By way of memory: ClearML notes the path of whatever torch saves to, here a passing one.
            content = io.BytesIO()
            torch.save(self._best, content)
            with replacing(self._run.best_checkpoint) as temporary:
                temporary.write_bytes(content.getbuffer())
            self._best = None
        trainer.save_checkpoint(self._run.last_checkpoint, weights_only=False)  # atomic
        end = time.monotonic()
        self._next_at = end + (end - start) / WRITING_SHARE


def _copy(module: pl.LightningModule) -> dict[str, Tensor]:
    """The module's state on the CPU, in memory of its own."""
    return {
        name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()
    }


def load_best(module: BaselineSegmentationModule, run: RunFolder) -> None:
    """Load the best epoch's weights into the module; SqueezeError where they are not there."""
    try:
        checkpoint = torch.load(run.best_checkpoint, map_location="cpu", weights_only=True)
        module.network.load_state_dict(
            {
                name.removeprefix("network."): tensor
                for name, tensor in checkpoint["state_dict"].items()
                if name.startswith("network.")
            }
        )
    except FileNotFoundError:
        raise SqueezeError(f"{run.path} holds no checkpoint: train it to the end first.") from None
    except Exception as error:  # noqa: BLE001 - unpickling damaged bytes can raise anything
        reason = " ".join(str(error).split())[:200]
        raise SqueezeError(f"{run.best_checkpoint} cannot be loaded ({reason}).") from None
