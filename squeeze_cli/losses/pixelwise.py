"""Losses that are means over pixels: cross-entropy and focal loss."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from squeeze_cli.kernels.cross_entropy import upsampled_cross_entropy
from squeeze_cli.losses.base import SegmentationLoss, weighted_mean


class CrossEntropyLoss(SegmentationLoss):
    """Mean of -log p over the pixels, weighted by class as `torch.nn.CrossEntropyLoss` does."""

    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the part `ce`; see `SegmentationLoss.parts`."""
        log_pt, weights = self.pixel_terms(log_probs, target)
        return {"ce": weighted_mean(-log_pt, weights)}

    def parts_of_maps(self, maps: Tensor, target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Compute parts and predictions, on a CPU by one kernel; see `SegmentationLoss`."""
        if not self.use_kernels or maps.device.type != "cpu":
            return super().parts_of_maps(maps, target)
        inside, weights = self.pixel_weights(target, maps.shape[1])
        loss, predictions = upsampled_cross_entropy(maps, inside, weights)
        return {"ce": loss}, predictions


class FocalLoss(SegmentationLoss):
    """Mean of -(1 - p)^gamma log p (Lin et al., 2017, arXiv:1708.02002).

    Well-classified pixels count less than others. Class weights serve as alpha.
    """

    def __init__(self, class_weights: Sequence[float] | None = None, gamma: float = 2.0) -> None:
        super().__init__(class_weights)
        self.gamma = gamma

    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the part `focal`; see `SegmentationLoss.parts`."""
        log_pt, weights = self.pixel_terms(log_probs, target)
        # 1 - p is kept above 0, where the gradient of a power below 1 would be infinite.
        modulation = (1 - log_pt.exp()).clamp_min(1e-8) ** self.gamma
        return {"focal": weighted_mean(-modulation * log_pt, weights)}
