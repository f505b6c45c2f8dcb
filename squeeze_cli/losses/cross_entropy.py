"""Cross-entropy over pixels."""

from __future__ import annotations

from torch import Tensor

from squeeze_cli.losses.base import SegmentationLoss, weighted_mean


class CrossEntropyLoss(SegmentationLoss):
    """Mean of -log p over the pixels, weighted by class as `torch.nn.CrossEntropyLoss` does."""

    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """See `SegmentationLoss.parts`."""
        log_pt, weights = self.pixel_terms(log_probs, target)
        return {"ce": weighted_mean(-log_pt, weights)}
