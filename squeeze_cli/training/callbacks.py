"""Lightning callbacks: progress for people, the network's start, and the record kept up to date."""

import math
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, ProgressBar

from squeeze_cli.config.resolve import write_config
from squeeze_cli.console import Advance, Reporter, no_advance
from squeeze_cli.errors import SqueezeError
from squeeze_cli.model.initialize import initialize_network
from squeeze_cli.training.checkpoints import HISTORY_KEY
from squeeze_cli.training.experiment import Experiment, feature_grid
from squeeze_cli.training.modules import FeatureModule
from squeeze_cli.training.record import Epoch, Journal


class ReportedProgress(ProgressBar):
    """A bar (or lines) over all steps of all epochs, with the last epoch's metrics beside it.

    A test has a bar of its own where `test_label` names it.
    """

    def __init__(self, reporter: Reporter, test_label: str = "") -> None:
        super().__init__()
        self._reporter = reporter
        self._test_label = test_label
        self._stack = ExitStack()
        self._advance: Advance = no_advance

    def disable(self) -> None:
        """Do nothing: on ranks above 0, where Lightning calls this, the reporter is silent."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar; a resumed run starts where it stopped."""
        self._open("Training", int(self.total_train_batches) * int(trainer.max_epochs or 1))
        if trainer.global_step:
            self._advance(trainer.global_step, "")

    def on_train_batch_end(self, *args: object, **kwargs: object) -> None:
        """Move on by a step."""
        self._advance(1, "")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch's validation."""
        assert isinstance(pl_module, FeatureModule)
        names = ("val/loss", pl_module.monitor)
        loss, chosen_by = (float(trainer.callback_metrics[name]) for name in names)
        metric = pl_module.monitor.removeprefix("val/")
        epoch = trainer.current_epoch + 1
        self._advance(0, f"epoch {epoch}: val loss {loss:.3f} {metric} {chosen_by:.3f}")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar of a test."""
        if self._test_label:
            self._open(self._test_label, sum(int(count) for count in trainer.num_test_batches))

    def on_test_batch_end(self, *args: object, **kwargs: object) -> None:
        """Move on by a batch."""
        self._advance(1, "")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar."""
        self._stack.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar before anything is said about the exception."""
        self._stack.close()

    def _open(self, label: str, total: int) -> None:
        self._stack.callback(setattr, self, "_advance", no_advance)
        self._advance = self._stack.enter_context(self._reporter.track(label, total))


def initialize(experiment: Experiment) -> None:
    """Fit normalization, projections and codebooks to the training features, on the device.

    The data module is set up. Every rank computes the same from the same features; where the strategy
    synchronizes modules, as DDP does, rank 0's go to all.
    """
    data, network = experiment.data, experiment.module.network.to(experiment.device)
    grid = feature_grid(experiment)
    batches = (
        (states, data.counted("train", positions, grid))
        for states, _, positions in data.batches("train", data.batch_size, shuffled=True)
    )
    initialize_network(network, batches, data.seed)


class DivergenceGuard(Checkpoint):
    """Stops a training whose loss is not finite, in all processes, before its weights are written.

    The first step's loss is kept, in `last.ckpt` too, for comparison with the last epoch's.
    """

    first_loss = math.nan

    def state_dict(self) -> dict[str, Any]:
        """The first step's loss."""
        return {"first_loss": self.first_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the first step's loss up again."""
        self.first_loss = state_dict["first_loss"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: object
    ) -> None:
        """Look at the loss of a step."""
        loss = outputs["loss"]
        if trainer.global_step == 1:
            self.first_loss = float(loss)
        if not trainer.strategy.reduce_boolean_decision(bool(loss.isfinite())):
            raise divergence(trainer, f"the loss is not finite at step {trainer.global_step}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what the epoch's validation has found, which is that of all processes."""
        if not trainer.callback_metrics["val/loss"].isfinite():
            what = f"the validation loss is not finite after step {trainer.global_step}"
            raise divergence(trainer, what)


def divergence(trainer: pl.Trainer, what: str) -> SqueezeError:
    """Return the error that ends a diverged training.

    Seeds fix the steps, so the run would diverge again where it was resumed.
    """
    return SqueezeError(
        f"The training has diverged: {what} (epoch {trainer.current_epoch + 1} of "
        f"{trainer.max_epochs}). Start it anew with --overwrite and a lower --lr."
    )


class RecordKeeper(Checkpoint):
    """Keeps the run record recent: at the start of training and after every epoch.

    It holds the epochs' metrics, which `last.ckpt` keeps with the weights: a resumed run's record
    covers all epochs. As a `Checkpoint` it is called after other callbacks, when the epoch's metrics
    are complete; it stands before those that write the weights.

    Args:
        experiment: what is trained.
        journal: the run's record; None on a rank above 0, which writes no file.
    """

    def __init__(self, experiment: Experiment, journal: Journal | None) -> None:
        self.history: list[Epoch] = []
        self._experiment = experiment
        self._journal = journal

    @property
    def state_key(self) -> str:
        """Name of the history in `last.ckpt`."""
        return HISTORY_KEY

    def state_dict(self) -> dict[str, Any]:
        """The history."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history up again."""
        self.history = list(state_dict["history"])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the configuration, with what the data told; those of a resumed run are the same."""
        if self._journal is not None and stage == "fit":
            write_config(self._journal.run.config_file, self._experiment.config)

    def is_own(self, epoch: int, digest: str) -> bool:
        """Whether weights with this digest are those of an epoch, where the history tells it."""
        known = [each.get("digest", digest) for each in self.history]  # older ones do not
        return epoch < len(known) and known[epoch] == digest

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Describe the run: data, network and codebooks are there."""
        if self._journal is not None:
            self._journal.describe(self._experiment)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch to the history, with a digest of its weights."""
        module = self._experiment.module
        metrics = {split: module.results(split) for split in ("train", "val")}
        digest = module.network.digest()
        self.history.append({"epoch": trainer.current_epoch, "digest": digest, **metrics})
        if self._journal is not None:
            self._journal.update(self.history)
