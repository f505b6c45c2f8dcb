"""What every segmentation loss is: logits and masks to named, weighted parts that sum to the loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.kernels.upsampling import upsample_bilinear


class SegmentationLoss(nn.Module):
    """Base of all losses; pixels whose target is `IGNORE_INDEX` (255) count nowhere.

    Args:
        class_weights: one weight a class, 1 for those that it does not reach (a backbone's head
            may have more outputs than the masks have classes); None weighs all alike.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        self.register_buffer("class_weights", weights, persistent=False)

    @abstractmethod
    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The weighted parts by name; `log_probs` `[B, K, H, W]`, `target` `[B, H, W]` int64."""

    def parts_of_maps(self, maps: Tensor, target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The parts of logits that are yet to be upsampled, and the class that each pixel is given.

        Args:
            maps: logits `[B, K, h, w]`, which bilinear upsampling brings to the target's size.
            target: `[B, H, W]` of an integer type; of uint8 it is read the quickest.

        Returns:
            The parts as `parts` gives them, and predictions `[B, H, W]` of an integer type.
        """
        target = target.long()
        logits = upsample_bilinear(maps, (target.shape[1], target.shape[2]))
        predictions = logits.detach().max(dim=1).indices
        return self.parts(logits.log_softmax(dim=1), target), predictions

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The scalar loss of logits `[B, K, H, W]` for targets `[B, H, W]` in 0..K-1 or 255."""
        return sum_parts(self.parts(logits.log_softmax(dim=1), target))

    def weights_for(self, count: int) -> Tensor | None:
        """The class weights `[count]`, padded with ones."""
        weights = self.class_weights
        if weights is None or len(weights) >= count:
            return weights
        return torch.cat([weights, weights.new_ones(count - len(weights))])

    def pixel_terms(self, log_probs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """log p of the target `[B, H, W]` and the pixels' weights (0 where ignored)."""
        # torch's nll_loss picks the target's entry, 0 where ignored, with a fast backward pass.
        log_pt = -F.nll_loss(log_probs, target, reduction="none", ignore_index=IGNORE_INDEX)
        _, weights = self.pixel_weights(target, log_probs.shape[1])
        return log_pt, weights

    def pixel_weights(self, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """The target, int64, with 0 where it is ignored, and the pixels' weights (0 there), float32."""
        valid = target != IGNORE_INDEX
        inside = target.masked_fill(~valid, 0).long()
        weights = self.weights_for(classes)
        return inside, valid.float() if weights is None else weights[inside] * valid


def sum_parts(parts: dict[str, Tensor]) -> Tensor:
    """The loss that the parts make up."""
    return torch.stack(list(parts.values())).sum()


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of `values` by `weights`; 0 where all weights are 0, as with only ignored pixels."""
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)
