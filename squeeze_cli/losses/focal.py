"""Focal loss (Lin et al., 2017, arXiv:1708.02002)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from squeeze_cli.losses.base import SegmentationLoss, weighted_mean


class FocalLoss(SegmentationLoss):
    """Mean of -(1 - p)^gamma log p: well-classified pixels count less. Class weights as alpha."""

    def __init__(self, class_weights: Sequence[float] | None = None, gamma: float = 2.0) -> None:
        super().__init__(class_weights)
        self.gamma = gamma

    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """See `SegmentationLoss.parts`."""
        log_pt, weights = self.pixel_terms(log_probs, target)
        # 1 - p is kept off 0, where the gradient of a power below 1 would be infinite.
        modulation = (1 - log_pt.exp()).clamp_min(1e-8) ** self.gamma
        return {"focal": weighted_mean(-modulation * log_pt, weights)}
