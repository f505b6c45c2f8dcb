"""Cross-entropy over pixels."""

from __future__ import annotations

from torch import Tensor

from squeeze_cli.kernels.cross_entropy import upsampled_cross_entropy
from squeeze_cli.losses.base import SegmentationLoss, weighted_mean


class CrossEntropyLoss(SegmentationLoss):
    """Mean of -log p over the pixels, weighted by class as `torch.nn.CrossEntropyLoss` does."""

    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """See `SegmentationLoss.parts`."""
        log_pt, weights = self.pixel_terms(log_probs, target)
        return {"ce": weighted_mean(-log_pt, weights)}

    def parts_of_maps(self, maps: Tensor, target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See `SegmentationLoss.parts_of_maps`; the same sums in fewer passes over the pixels."""
        inside, weights = self.pixel_weights(target, maps.shape[1])
        loss, predictions = upsampled_cross_entropy(maps, inside, weights)
        return {"ce": loss}, predictions
