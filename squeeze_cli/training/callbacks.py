"""Lightning callbacks for progress, initialization, divergence and the run record."""

import math
from collections.abc import Mapping
from contextlib import ExitStack

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT

from squeeze_cli.config.resolve import write_config
from squeeze_cli.console import Advance, Reporter, no_advance
from squeeze_cli.errors import SqueezeError
from squeeze_cli.model.build import initialize_network
from squeeze_cli.training.checkpoints import HISTORY_KEY
from squeeze_cli.training.experiment import Experiment
from squeeze_cli.training.modules import FeatureModule
from squeeze_cli.training.record import Epoch, Journal


class ReportedProgress(ProgressBar):
    """Progress over all steps of all epochs, with the last epoch's metrics beside it.

    A test has a progress bar of its own if `test_label` names it.
    """

    def __init__(self, reporter: Reporter, test_label: str = "") -> None:
        super().__init__()
        self._reporter = reporter
        self._test_label = test_label
        self._stack = ExitStack()
        self._advance: Advance = no_advance

    def disable(self) -> None:
        """Do nothing: Lightning calls this on ranks above 0, where the reporter is silent."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar; a resumed run starts where it stopped."""
        self._open("Training", int(self.total_train_batches) * int(trainer.max_epochs or 1))
        if trainer.global_step:
            self._advance(trainer.global_step, "")

    def on_train_batch_end(self, *args: object, **kwargs: object) -> None:
        """Advance by a step."""
        self._advance(1, "")

    on_test_batch_end = on_train_batch_end

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the metrics of the epoch's validation."""
        assert isinstance(pl_module, FeatureModule)
        names = ("val/loss", pl_module.monitor)
        loss, value = (float(trainer.callback_metrics[name]) for name in names)
        metric = pl_module.monitor.removeprefix("val/")
        epoch = trainer.current_epoch + 1
        self._advance(0, f"epoch {epoch}: val loss {loss:.3f} {metric} {value:.3f}")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar of a test."""
        if self._test_label:
            self._open(self._test_label, sum(int(count) for count in trainer.num_test_batches))

    def teardown(self, *args: object, **kwargs: object) -> None:
        """Close the bar, also before an exception is reported."""
        self._stack.close()

    on_exception = teardown

    def _open(self, label: str, total: int) -> None:
        self._stack.callback(setattr, self, "_advance", no_advance)
        self._advance = self._stack.enter_context(self._reporter.track(label, total))


def initialize(experiment: Experiment) -> None:
    """Fit normalization, projections and codebooks to the training features, on the device.

    The data module must be set up. Every rank computes the same from the same features; strategies
    such as DDP copy the values of rank 0 to all ranks anyway.
    """
    data, network = experiment.data, experiment.module.network.to(experiment.device)
    batches = (
        (states, data.counted("train", positions, experiment.backbone.grid))
        for states, _, positions in data.batches("train", data.batch_size, shuffled=True)
    )
    initialize_network(network, batches, data.seed)


class DivergenceGuard(Checkpoint):
    """Stop all processes of a training whose loss is not finite, before the weights are written.

    The loss of the first step is kept, also in `last.ckpt`, for comparison with that of the last epoch.
    """

    first_loss = math.nan

    def state_dict(self) -> dict[str, float]:
        """Return the loss of the first step."""
        return {"first_loss": self.first_loss}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restore the loss of the first step."""
        self.first_loss = state_dict["first_loss"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, *args: object,
    ) -> None:  # fmt: skip
        """Check the loss of a step."""
        assert isinstance(outputs, Mapping)
        loss = outputs["loss"]
        if trainer.global_step == 1:
            self.first_loss = float(loss)
        if not trainer.strategy.reduce_boolean_decision(bool(loss.isfinite())):
            raise divergence(trainer, f"the loss is not finite at step {trainer.global_step}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the validation loss of the epoch, a mean over all processes."""
        if not trainer.callback_metrics["val/loss"].isfinite():
            symptom = f"the validation loss is not finite after step {trainer.global_step}"
            raise divergence(trainer, symptom)


def divergence(trainer: pl.Trainer, symptom: str) -> SqueezeError:
    """Return the error that ends a diverged training.

    It does not suggest to resume: the steps are seeded, so the run would diverge again.
    """
    return SqueezeError(
        f"The training has diverged: {symptom} (epoch {trainer.current_epoch + 1} of "
        f"{trainer.max_epochs}). Start it again with --overwrite and a lower --lr."
    )


class RecordKeeper(Checkpoint):
    """Update the run record at the start of training and after every epoch.

    The metrics of all epochs are also kept in `last.ckpt`, so the record of a resumed run is complete.
    As a `Checkpoint` it is called after other callbacks, when the epoch's metrics are complete; it
    comes before the callbacks that write the weights. `journal` is the run's record, or None on a rank
    above 0, which writes no file.
    """

    def __init__(self, experiment: Experiment, journal: Journal | None) -> None:
        self.history: list[Epoch] = []
        self._experiment = experiment
        self._journal = journal

    @property
    def state_key(self) -> str:
        """Name of the history in `last.ckpt`."""
        return HISTORY_KEY

    def state_dict(self) -> dict[str, list[Epoch]]:
        """Return the history."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, list[Epoch]]) -> None:
        """Restore the history."""
        self.history = list(state_dict["history"])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the configuration again, now with classes and outputs that the data determine."""
        if self._journal is not None and stage == "fit":
            write_config(self._journal.run.config_file, self._experiment.config)

    def is_own(self, epoch: int, digest: str) -> bool:
        """Return whether weights with this digest can be those of an epoch, by the history."""
        known = [each.get("digest", digest) for each in self.history]  # older runs have no digests
        return epoch < len(known) and known[epoch] == digest

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add data, model and quantizer to the record, now that all of them exist."""
        if self._journal is not None:
            self._journal.describe(self._experiment)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch to the history, with a digest of its weights."""
        module = self._experiment.module
        metrics = {split: module.results[split] for split in ("train", "val")}
        digest = module.network.digest()
        self.history.append({"epoch": trainer.current_epoch, "digest": digest, **metrics})
        if self._journal is not None:
            self._journal.update(self.history)
