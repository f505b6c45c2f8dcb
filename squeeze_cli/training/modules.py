"""The Lightning modules: a thin shell around `SegmentationNetwork`; metrics once an epoch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from squeeze_cli.console import Advance, no_advance
from squeeze_cli.kernels.upsampling import upsample_bilinear
from squeeze_cli.losses.base import SegmentationLoss, sum_parts
from squeeze_cli.model.network import NetworkOutput, SegmentationNetwork
from squeeze_cli.training.metrics import CodebookUsage, SegmentationMetrics

# The last layer starts from pretrained weights: it moves at a tenth of the others' rate.
UNFROZEN_LR_FACTOR = 0.1
WEIGHT_DECAY = 0.01

SPLITS = ("train", "val", "test")

Batch = tuple[Tensor, Tensor, Tensor]


class BaselineSegmentationModule(pl.LightningModule):
    """Segmentation on unquantized features.

    A batch is (states, masks `[B, H, W]`, indices), the states being what the frozen trunk gives,
    from the store; after `use_trunk` the first are images.

    Args:
        network: what is trained.
        loss: on logits at the masks' size.
        num_classes: outputs of the head.
        lr: peak learning rate of the one-cycle schedule.
        encoder_lr_factor: of it, for what stands before the codes.
        seed: with the epoch's number it seeds each epoch, so that a resumed run draws the same.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        loss: SegmentationLoss,
        *,
        num_classes: int,
        lr: float = 1e-3,
        encoder_lr_factor: float = 1.0,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.encoder_lr_factor = encoder_lr_factor
        self.network = network
        self.loss = loss
        self.lr = lr
        self.seed = seed
        # Metrics are buffers of no checkpoint: kept out of the module tree, moved in `_begin`.
        self._segmentation = {split: SegmentationMetrics(num_classes) for split in SPLITS}
        self.history: list[dict[str, Any]] = []
        self.results: dict[str, dict[str, Any]] = {}
        self._trunk: list[nn.Module] = []
        self._sums: dict[str, Tensor] = {}
        self._images = 0

    def use_trunk(self, trunk: nn.Module | None) -> None:
        """Take batches of images, which go through the frozen `trunk`; None takes states."""
        self._trunk = [] if trunk is None else [trunk]  # a list keeps it out of checkpoints

    # --- steps -----------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """One step; nothing is logged here, sums are kept on the device."""
        del batch_index
        return self._shared_step(batch, "train")

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Adds to the validation metrics."""
        del batch_index
        self._shared_step(batch, "val")

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Adds to the test metrics."""
        del batch_index
        self._shared_step(batch, "test")

    def states(self, inputs: Tensor) -> Tensor:
        """The trunk's states of a batch's inputs."""
        if not self._trunk:
            return inputs
        with torch.no_grad():
            state: Tensor = self._trunk[0].to(inputs.device)(inputs)
        return state

    def predict_logits(self, state: Tensor, size: tuple[int, int]) -> tuple[Tensor, NetworkOutput]:
        """Logits upsampled to `size` (bilinear), and the network's output."""
        output = self.network(state)
        return upsample_bilinear(output.logits.float(), size), output

    def _shared_step(self, batch: Batch, split: str) -> Tensor:
        inputs, masks, _ = batch
        output = self.network(self.states(inputs))
        # In half precision probabilities and their sum disagree.
        with torch.autocast(masks.device.type, enabled=False):
            parts, predictions = self.loss.parts_of_maps(output.logits.float(), masks)
        losses = self._losses(sum_parts(parts), output)
        self._segmentation[split].update(predictions, masks)
        self._observe_output(output, split)
        if len(parts) > 1:
            losses |= {f"loss_{name}": value for name, value in parts.items()}
        self._add(losses, len(masks))
        return losses["loss"]

    def _losses(self, segmentation_loss: Tensor, output: NetworkOutput) -> dict[str, Tensor]:
        """`loss`, which is trained on, and what it is the sum of."""
        del output
        return {"loss": segmentation_loss}

    def _observe_output(self, output: NetworkOutput, split: str) -> None:
        """For subclasses that measure more than segmentation."""

    def _add(self, values: dict[str, Tensor], images: int) -> None:
        """Means of a batch, each image counting once: batches may differ in size."""
        for name, value in values.items():
            total = value.detach() * images
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._images += images

    @torch.inference_mode()
    def measure(
        self,
        batches: Iterable[Any],
        device: torch.device,
        split: str = "test",
        advance: Advance = no_advance,
    ) -> dict[str, Any]:
        """The metrics of `split` over `batches`, in eval mode and without a trainer."""
        self.eval().to(device)
        self._begin(split)
        for inputs, masks, indices in batches:
            self._shared_step((inputs.to(device), masks.to(device), indices), split)
            advance(len(masks), "")
        return self._collect(split)

    def code_counts(self, split: str) -> list[Tensor]:
        """How often each value of each of a vector's codes was met when `split` was last measured.

        Q tensors `[K_q]` int64; none where nothing is quantized.
        """
        del split
        return []

    # --- epochs ----------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Seed the epoch by its number: a resumed run goes on with the numbers of an unbroken one."""
        torch.manual_seed((self.seed * 1_000_003 + self.current_epoch) % 2**63)
        self._begin("train")

    def on_validation_epoch_start(self) -> None:
        """Close the training sums, which validation interrupts at the end of an epoch."""
        if self.trainer.state.fn == "fit":
            self._end("train")
        self._begin("val")

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's metrics and keep them: the run record is written from the history."""
        self._end("val")
        if self.trainer.state.fn == "fit":
            epoch = {split: dict(self.results[split]) for split in ("train", "val")}
            self.history.append({"epoch": self.current_epoch, **epoch})

    def on_test_epoch_start(self) -> None:
        """Start the test metrics."""
        self._begin("test")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._end("test")

    def _begin(self, split: str) -> None:
        self._sums, self._images = {}, 0
        for metric in self._metrics(split):
            metric.to(self.device)
            metric.reset()

    def _end(self, split: str) -> None:
        if not self._images:
            return
        values = self._collect(split)
        flat = {f"{split}/{k}": v for k, v in _flatten(values).items()}
        self.log_dict(flat, on_step=False, on_epoch=True)

    def _collect(self, split: str) -> dict[str, Any]:
        values: dict[str, Any] = {k: float(v) / self._images for k, v in self._sums.items()}
        values |= self._summaries(split)
        self.results[split] = values
        return values

    def _metrics(self, split: str) -> list[Any]:
        return [self._segmentation[split]]

    def _summaries(self, split: str) -> dict[str, Any]:
        return self._segmentation[split].summary()

    # --- optimization and checkpoints --------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Fused AdamW with a one-cycle learning rate (Smith and Topin, 2018, arXiv:1708.07120)."""
        last_layer = self.network.last_layer
        slower = [
            ([] if last_layer is None else list(last_layer.parameters()), UNFROZEN_LR_FACTOR),
            (self.network.quantizer.encoder_parameters(), self.encoder_lr_factor),
        ]
        held = {id(p) for parameters, _ in slower for p in parameters}
        others = [p for p in self.network.parameters() if p.requires_grad and id(p) not in held]
        groups: list[dict[str, Any]] = [{"params": others, "lr": self.lr}]
        groups += [{"params": ps, "lr": self.lr * factor} for ps, factor in slower if ps]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, weight_decay=WEIGHT_DECAY, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in groups],
            total_steps=max(2, int(self.trainer.estimated_stepping_batches)),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history with the weights: a resumed run's record covers all epochs."""
        checkpoint["squeeze_history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history up again."""
        self.history = list(checkpoint.get("squeeze_history", []))


class VQSqueezeModule(BaselineSegmentationModule):
    """Segmentation on quantized features: adds the quantizer's loss and the codebook's metrics."""

    def __init__(
        self,
        network: SegmentationNetwork,
        loss: SegmentationLoss,
        *,
        num_classes: int,
        lr: float = 1e-3,
        encoder_lr_factor: float = 1.0,
        seed: int = 42,
    ) -> None:
        super().__init__(
            network, loss, num_classes=num_classes, lr=lr,
            encoder_lr_factor=encoder_lr_factor, seed=seed,
        )  # fmt: skip
        sizes = network.quantizer.code_sizes
        self._codebooks = {split: CodebookUsage(sizes) for split in SPLITS}

    def _losses(self, segmentation_loss: Tensor, output: NetworkOutput) -> dict[str, Tensor]:
        parts = {"segmentation_loss": segmentation_loss, "vq_loss": output.quantizer_loss}
        return {**parts, "loss": segmentation_loss + output.quantizer_loss}

    def _observe_output(self, output: NetworkOutput, split: str) -> None:
        self._codebooks[split].update(output.codes)

    def _metrics(self, split: str) -> list[Any]:
        return [*super()._metrics(split), self._codebooks[split]]

    def code_counts(self, split: str) -> list[Tensor]:
        """See `BaselineSegmentationModule.code_counts`."""
        return self._codebooks[split].counts()

    def _summaries(self, split: str) -> dict[str, Any]:
        usage: dict[str, list[float]] = self._codebooks[split].compute()
        return {
            **super()._summaries(split),
            "codebook_usage": usage["usage"],
            "codebook_perplexity": usage["perplexity"],
        }


def _flatten(values: dict[str, Any]) -> dict[str, float]:
    """Lists become one metric an entry: `per_class_iou_0`, `codebook_usage_level_1`, ...; no Nones.

    A single code keeps the plain name: `codebook_usage`.
    """
    flat: dict[str, float] = {}
    for name, value in values.items():
        if not isinstance(value, list):
            flat[name] = value
            continue
        infix = "" if name.startswith("per_class") else "level_"
        for i, entry in enumerate(value):
            if entry is not None:
                single = len(value) == 1 and infix
                flat[name if single else f"{name}_{infix}{i}"] = entry
    return flat
