"""Segmentation losses: named, weighted parts that sum to the loss, computed from logits and masks."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.kernels.cross_entropy import upsampled_cross_entropy

DICE_SMOOTHING = 1.0
FOCAL_WEIGHT = 0.5  # in the combined loss


class SegmentationLoss(nn.Module):
    """Base of all losses; pixels whose target is `IGNORE_INDEX` do not count.

    `class_weights` has one weight per class; outputs beyond them (a head may have more outputs than
    the masks have classes) weigh 1. `use_kernels` lets `forward` use a hand-made kernel.
    """

    class_weights: Tensor

    def __init__(
        self, class_weights: Sequence[float] | None = None, use_kernels: bool = True
    ) -> None:
        super().__init__()
        self.use_kernels = use_kernels
        weights = torch.tensor(class_weights or (), dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    @abstractmethod
    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the weighted parts by name.

        `log_probs` are `[B, K, H, W]`, the target `[B, H, W]` int64 in 0..K-1 or `IGNORE_INDEX`.
        """

    def forward(self, maps: Tensor, target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Upsample logits `[B, K, h, w]` float32 bilinearly to the size of the target `[B, H, W]`.

        Returns the `parts`, and the predicted classes `[B, H, W]`.
        """
        logits = upsample(maps, target.shape[1:])
        return self.parts(logits.log_softmax(dim=1), target.long()), logits.detach().argmax(dim=1)

    def weights_for(self, count: int) -> Tensor:
        """Return the weights of `count` classes."""
        return F.pad(self.class_weights, (0, count - len(self.class_weights)), value=1.0)

    def pixel_terms(self, log_probs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p of the target `[B, H, W]` and the pixels' weights (0 where ignored)."""
        _, weights = self.pixel_weights(target, log_probs.shape[1])
        return _log_probs_of(log_probs, target), weights

    def pixel_weights(self, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Return the target int64, with 0 for ignored pixels, and the pixels' weights float32."""
        valid = target != IGNORE_INDEX
        inside = target.masked_fill(~valid, 0).long()
        if not len(self.class_weights):
            return inside, valid.float()
        return inside, self.weights_for(classes)[inside] * valid


class CrossEntropyLoss(SegmentationLoss):
    """Mean of -log p over the pixels, weighted by class as `torch.nn.CrossEntropyLoss` does."""

    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the part `ce`."""
        log_pt, weights = self.pixel_terms(log_probs, target)
        return {"ce": _weighted_mean(-log_pt, weights)}

    def forward(self, maps: Tensor, target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the part `ce` and the predictions; on a CPU one kernel does both."""
        if not self.use_kernels or maps.device.type != "cpu":
            return super().forward(maps, target)
        inside, weights = self.pixel_weights(target, maps.shape[1])
        loss, predictions = upsampled_cross_entropy(maps, inside, weights)
        return {"ce": loss}, predictions


class FocalLoss(SegmentationLoss):
    """Mean of -(1 - p)^gamma log p (Lin et al., 2017, arXiv:1708.02002).

    Well-classified pixels count less than others. Class weights serve as alpha.
    """

    gamma = 2.0

    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the part `focal`."""
        log_pt, weights = self.pixel_terms(log_probs, target)
        # 1 - p stays above 0, where the gradient of a power below 1 would be infinite.
        modulation = (1 - log_pt.exp()).clamp_min(1e-8) ** self.gamma
        return {"focal": _weighted_mean(-modulation * log_pt, weights)}


class DiceLoss(SegmentationLoss):
    """1 - 2|P∩T| / (|P| + |T|) (Milletari et al., 2016, arXiv:1606.04797).

    The overlap is soft and summed over the batch; classes are averaged by their weights. Classes
    without a target pixel in the batch are ignored: their Dice is 0 for any prediction.
    """

    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the part `dice`."""
        classes = log_probs.shape[1]
        valid = target != IGNORE_INDEX
        probs = log_probs.exp() * valid[:, None]
        target_probs = _log_probs_of(log_probs, target).exp()
        # Ignored pixels are counted in an additional bin, which is dropped.
        bins = target.masked_fill(~valid, classes).flatten()
        overlap = log_probs.new_zeros(classes + 1).index_add(0, bins, target_probs.flatten())
        target_size = torch.bincount(bins, minlength=classes + 1)[:classes]
        total = probs.sum(dim=(0, 2, 3)) + target_size
        dice = (2 * overlap[:classes] + DICE_SMOOTHING) / (total + DICE_SMOOTHING)
        present = (target_size > 0).to(dice)
        return {"dice": _weighted_mean(1 - dice, present * self.weights_for(classes))}


class CombinedLoss(SegmentationLoss):
    """1.0 · CE + 1.0 · Dice + 0.5 · focal; its weighted parts are logged by name."""

    def __init__(
        self, class_weights: Sequence[float] | None = None, use_kernels: bool = True
    ) -> None:
        super().__init__(class_weights, use_kernels)
        self.ce = CrossEntropyLoss(class_weights)
        self.dice = DiceLoss(class_weights)
        self.focal = FocalLoss(class_weights)

    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the parts `ce`, `dice` and `focal`."""
        ce, dice = self.ce.parts(log_probs, target), self.dice.parts(log_probs, target)
        focal = FOCAL_WEIGHT * self.focal.parts(log_probs, target)["focal"]
        return {**ce, **dice, "focal": focal}


def upsample(logits: Tensor, size_px: Sequence[int]) -> Tensor:
    """Upsample logits `[B, K, h, w]` bilinearly to `[B, K, H, W]`, the size of masks, as float32."""
    return F.interpolate(logits.float(), tuple(size_px), mode="bilinear", align_corners=False)


def sum_parts(parts: dict[str, Tensor]) -> Tensor:
    """Sum the parts to the loss."""
    return torch.stack(list(parts.values())).sum()


def _log_probs_of(log_probs: Tensor, target: Tensor) -> Tensor:
    return -F.nll_loss(log_probs, target, reduction="none", ignore_index=IGNORE_INDEX)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Compute the weighted mean of `values`; 0 if all weights are 0."""
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)
