"""Lightning modules around `SegmentationNetwork`: losses, metrics and optimizer."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MetricCollection

from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.features.datamodule import Batch, FeatureBatches
from squeeze_cli.losses import ReconstructionLoss, create_loss
from squeeze_cli.losses.segmentation import SegmentationLoss, sum_parts
from squeeze_cli.model.network import SegmentationNetwork, Segmented
from squeeze_cli.quantizers.base import Quantized
from squeeze_cli.training.metrics import Values, as_values, flatten, make_metrics

# Share of the learning rate for the backbone's last layer, which is pretrained.
UNFROZEN_LR_FACTOR = 0.1
WEIGHT_DECAY = 0.01
# Share of the steps in which the weight of the rate grows from 0, so that useful codes come first.
RATE_RAMP = 1 / 3


class FeatureModule(pl.LightningModule):
    """Base of all modules for training on frozen features.

    A batch is (states, masks `[B, H, W]` of class indices, positions in the split); states are the
    outputs of the frozen trunk.

    Attributes:
        monitor, mode: Validation metric that chooses the best epoch, and whether `max` or `min`.
        is_quantized: Whether the features are quantized; they are then decoded in validation and test.
        rate_model: Model that estimates the bits per vector; None without a weight of the rate.
        distillation: Loss of states and logits; in training only, so that evaluating needs no teacher.
        teacher_digest: Digest of the teacher's weights.
        results: Losses and metrics of the last whole epoch of each split, as in a run record.
    """

    monitor: str
    mode: Literal["max", "min"]
    distillation: Callable[[Tensor, Tensor], Tensor] | None = None
    teacher_digest: str | None = None

    def __init__(self, config: ExperimentConfig, network: SegmentationNetwork) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.loss = create_loss(config.model)
        quantizer = network.quantizer
        self.is_quantized = bool(quantizer.code_sizes)
        self.rate_model = quantizer.rate_model() if config.quantizer.rate_weight else None
        num_classes = config.model.num_classes if config.model.has_head else None
        sizes = quantizer.counted_sizes
        # Decoding costs time: with a head, features are decoded in validation and test only.
        self.train_metrics = make_metrics(num_classes, sizes, distortion=num_classes is None)
        self.val_metrics = make_metrics(num_classes, sizes, distortion=self.is_quantized)
        self.test_metrics = make_metrics(num_classes, sizes, distortion=self.is_quantized)
        self.results: dict[str, Values] = {}

    def _distortion(self, output: Quantized, positions: Tensor) -> dict[str, Tensor]:
        """Return `features`, `decoded` features, and the mask `counted` of all vectors but padding."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, FeatureBatches)
        split = "train" if self.training else data.test_split if self.trainer.testing else "val"
        counted = data.counted(split, positions, output.features.shape[-2:])
        decoded = self.network.decoded(output)
        return {"features": output.features, "decoded": decoded, "counted": counted}

    def _rate_losses(self, output: Quantized) -> dict[str, Tensor]:
        """Return the losses for the rate of codes; none outside of training, or without a weight."""
        if self.rate_model is None or not self.training:
            return {}
        soft, hard = self.rate_model(output, self.network.quantizer.code_vectors())
        ramp = self.global_step / (RATE_RAMP * float(self.trainer.estimated_stepping_batches))
        weight = self.config.quantizer.rate_weight or 0.0
        losses = {"rate_loss": weight * min(1.0, ramp) * soft}
        return losses if hard is None else {**losses, "prior_loss": hard}

    @abstractmethod
    def measure(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the losses of a batch, of which `loss` is minimized, and arguments of the metrics."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, and update the training metrics."""
        return self._step(batch, self.train_metrics).requires_grad_()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the validation metrics."""
        self._step(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the test metrics."""
        self._step(batch, self.test_metrics)

    def _step(self, batch: Batch, metrics: MetricCollection) -> Tensor:
        losses, measured = self.measure(batch)
        metrics.update(losses=losses, images=len(batch[1]), **measured)
        return losses["loss"]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the epoch by its number and the rank: a resumed run draws the numbers of a whole one.

        This hook runs after the set-up of loaders, which draws other numbers in a resumed run.
        """
        if batch_idx > 0:
            return
        epochs_seed = self.config.training.seed * 1_000_003 + self.current_epoch
        torch.manual_seed((epochs_seed + self.global_rank * 7_368_787) % 2**63)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training losses and metrics."""
        self._log_metrics("train", self.train_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log the validation losses and metrics."""
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the test losses and metrics."""
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, split: str, metrics: MetricCollection) -> None:
        self.results[split] = values = as_values(metrics.compute())  # of all processes together
        metrics.reset()
        self.log_dict({f"{split}/{name}": value for name, value in flatten(values).items()})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return fused AdamW with a one-cycle learning rate (Smith and Topin, 2018, arXiv:1708.07120).

        The result is None if no parameter is trained, as for a codec of FAISS without a head.
        """
        if not any(parameter.requires_grad for parameter in self.parameters()):
            return None
        lr, encoder_factor = self.config.training.lr, self.config.quantizer.encoder_lr_factor
        slower = [
            (list(self.network.last_layer.parameters()), UNFROZEN_LR_FACTOR),
            (self.network.encoder_parameters(), 1.0 if encoder_factor is None else encoder_factor),
        ]
        slower_ids = {id(p) for parameters, _ in slower for p in parameters}
        others = [p for p in self.parameters() if p.requires_grad and id(p) not in slower_ids]
        groups = [(ps, lr * factor) for ps, factor in [(others, 1.0), *slower] if ps]
        optimizer = torch.optim.AdamW(
            [{"params": ps, "lr": rate} for ps, rate in groups],
            weight_decay=WEIGHT_DECAY, fused=True,
        )  # fmt: skip
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=[rate for _, rate in groups],
            total_steps=max(2, int(self.trainer.estimated_stepping_batches)),
        )  # fmt: skip
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class SegmentationModule(FeatureModule):
    """Segmentation of features, quantized or not; `loss` compares upsampled logits with masks."""

    monitor, mode = "val/iou", "max"
    loss: SegmentationLoss

    def measure(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the losses of a batch, and predictions, targets and codes for the metrics."""
        states, masks, positions = batch
        output = self.network(states)
        # In half precision the probabilities would not sum to 1.
        with torch.autocast(masks.device.type, enabled=False):
            parts, predictions = self.loss(output.logits.float(), masks)
        losses = self._losses(sum_parts(parts), output, batch)
        if len(parts) > 1:
            losses |= {f"loss_{name}": value for name, value in parts.items()}
        measured = {"preds": predictions, "target": masks, "codes": output.codes}
        if self.is_quantized and not self.training:
            measured |= self._distortion(output, positions)
        return losses, measured

    def _losses(
        self, segmentation_loss: Tensor, output: Segmented, batch: Batch
    ) -> dict[str, Tensor]:
        """Return `loss`, which is minimized, and the terms that it is the sum of."""
        if not self.is_quantized:
            return {"loss": segmentation_loss}
        parts = {"segmentation_loss": segmentation_loss, "vq_loss": output.quantizer_loss}
        if weight := self.config.model.reconstruction_weight:
            error = ReconstructionLoss()(**self._distortion(output, batch[2]))
            parts["reconstruction_loss"] = weight * error
        if self.distillation is not None and self.training:
            parts["distill_loss"] = self.distillation(batch[0], output.logits)
        parts |= self._rate_losses(output)
        return {**parts, "loss": torch.stack(list(parts.values())).sum()}


class ReconstructionModule(FeatureModule):
    """Reconstruction of features from their codes, without head and masks."""

    monitor, mode = "val/mse", "min"

    def measure(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the losses of a batch, and features, decoded features and codes for the metrics."""
        states, _, positions = batch
        output = self.network.quantize(self.network.features(states))
        measured = self._distortion(output, positions)
        reconstruction_loss = self.loss(measured["decoded"], output.features, measured["counted"])
        losses = {"reconstruction_loss": reconstruction_loss, "vq_loss": output.quantizer_loss}
        losses |= self._rate_losses(output)
        losses["loss"] = torch.stack(list(losses.values())).sum()
        return losses, {**measured, "codes": output.codes}
