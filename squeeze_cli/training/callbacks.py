"""Lightning callbacks: progress for people, and the run record kept up to date."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from squeeze_cli.console import Advance, Reporter, no_advance


class TrainingProgress(Callback):
    """A bar (or lines) over all steps of all epochs, with the last epoch's metrics beside it."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._stack = ExitStack()
        self._advance: Advance = no_advance

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar; a resumed run starts where it stopped."""
        del pl_module
        total = int(trainer.num_training_batches) * int(trainer.max_epochs or 1)
        self._advance = self._stack.enter_context(self._reporter.track("Training", total))
        if trainer.global_step:
            self._advance(trainer.global_step, "")

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """One step on."""
        self._advance(1, "")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch's validation."""
        val = getattr(pl_module, "results", {}).get("val")
        if val:
            self._advance(
                0,
                f"epoch {trainer.current_epoch + 1}: val loss {val['loss']:.3f} iou {val['iou']:.3f}",
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._stack.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar before anything is said about the exception."""
        self._stack.close()


class RecordKeeper(Callback):
    """Calls `update(module)` at the end of every epoch, so that a killed run's record is recent."""

    def __init__(self, update: Callable[[Any], None]) -> None:
        self._update = update

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After the module's own hook, which adds the epoch to its history."""
        self._update(pl_module)
