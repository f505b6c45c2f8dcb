"""A run's weights on disk: written while it trains, loaded back after."""

from __future__ import annotations

import time
import zlib
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

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
            with replacing(self._run.best_checkpoint) as path, path.open("wb") as file:
                torch.save(self._best, _Nameless(file))  # type: ignore[arg-type]
            self._best = None
        trainer.save_checkpoint(self._run.last_checkpoint, weights_only=False)  # atomic
        end = time.monotonic()
        self._next_at = end + (end - start) / WRITING_SHARE


class _Nameless:
    """A file to write to without its name: ClearML notes the path of whatever torch saves to, and
    this one passes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write, self.flush = file.write, file.flush


def _copy(module: pl.LightningModule) -> dict[str, Tensor]:
    """The module's state on the CPU, in memory of its own."""
    return {
        name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()
    }


def require_whole(path: Path) -> None:
    """Raise SqueezeError where a checkpoint's checksums, which torch writes but does not read, are
    not those of its content; FileNotFoundError where there is none."""
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip() is not None
    except (BadZipFile, EOFError, zlib.error):
        damaged = True
    if damaged:
        raise SqueezeError(f"{path} is damaged: train the run again, with --overwrite.")


def load_best(module: BaselineSegmentationModule, run: RunFolder) -> None:
    """Load the best epoch's weights into the module; SqueezeError where they are not there."""
    try:
        require_whole(run.best_checkpoint)
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
    except SqueezeError:
        raise
    except Exception as error:  # noqa: BLE001 - unpickling another's bytes can raise anything
        reason = " ".join(str(error).split())[:100]
        raise SqueezeError(
            f"{run.best_checkpoint} is no checkpoint of this run ({reason}): train it again."
        ) from None
