"""The contract of all segmentation losses: logits and masks to named, weighted parts of the loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from squeeze_cli.config.defaults import IGNORE_INDEX


class SegmentationLoss(nn.Module):
    """Base of all losses; pixels whose target is `IGNORE_INDEX` do not count.

    Args:
        class_weights: one weight per class; outputs beyond them (a head may have more outputs than
            the masks have classes) weigh 1. None weighs all classes alike.

    Attributes:
        use_kernels: whether `parts_of_maps` may use a hand-made kernel.
    """

    class_weights: Tensor | None
    use_kernels = True

    def __init__(self, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        self.register_buffer("class_weights", weights, persistent=False)

    @abstractmethod
    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the weighted parts by name.

        Args:
            log_probs: `[B, K, H, W]`.
            target: `[B, H, W]` int64, in 0..K-1 or `IGNORE_INDEX`.
        """

    def parts_of_maps(self, maps: Tensor, target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Upsample logits bilinearly to the target's size, and compute parts and predictions.

        Args:
            maps: logits `[B, K, h, w]` float32.
            target: `[B, H, W]`, an integer type.

        Returns:
            The parts as `parts` gives them, and the predicted classes `[B, H, W]`.
        """
        logits = F.interpolate(maps, target.shape[1:], mode="bilinear", align_corners=False)
        return self.parts(logits.log_softmax(dim=1), target.long()), logits.detach().argmax(dim=1)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the scalar loss of logits `[B, K, H, W]` for targets `[B, H, W]` int64."""
        return sum_parts(self.parts(logits.log_softmax(dim=1), target))

    def weights_for(self, count: int) -> Tensor | None:
        """Return the class weights `[count]`, padded with ones."""
        weights = self.class_weights
        if weights is None or len(weights) >= count:
            return weights
        return torch.cat([weights, weights.new_ones(count - len(weights))])

    def pixel_terms(self, log_probs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p of the target `[B, H, W]` and the pixels' weights (0 where ignored)."""
        log_pt = -F.nll_loss(log_probs, target, reduction="none", ignore_index=IGNORE_INDEX)
        _, weights = self.pixel_weights(target, log_probs.shape[1])
        return log_pt, weights

    def pixel_weights(self, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Return the target int64 with 0 where it is ignored, and the weights float32 (0 there)."""
        valid = target != IGNORE_INDEX
        inside = target.masked_fill(~valid, 0).long()
        weights = self.weights_for(classes)
        return inside, valid.float() if weights is None else weights[inside] * valid


def sum_parts(parts: dict[str, Tensor]) -> Tensor:
    """Sum the parts to the loss."""
    return torch.stack(list(parts.values())).sum()


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Compute the mean of `values` by `weights`; 0 where all weights are 0."""
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)
