"""Cross-entropy, Dice and focal loss together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from squeeze_cli.losses.base import SegmentationLoss
from squeeze_cli.losses.dice import DiceLoss
from squeeze_cli.losses.pixelwise import CrossEntropyLoss, FocalLoss


class CombinedLoss(SegmentationLoss):
    """1.0 · CE + 1.0 · Dice + 0.5 · focal; its parts are logged by name, already weighted."""

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        ce_weight: float = 1.0,
        dice_weight: float = 1.0,
        focal_weight: float = 0.5,
    ) -> None:
        super().__init__(class_weights)
        self.terms: list[tuple[float, SegmentationLoss]] = [
            (ce_weight, CrossEntropyLoss(class_weights)),
            (dice_weight, DiceLoss(class_weights)),
            (focal_weight, FocalLoss(class_weights)),
        ]
        for _, loss in self.terms:
            self.add_module(type(loss).__name__, loss)

    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute all parts; see `SegmentationLoss.parts`."""
        return {
            name: weight * value
            for weight, loss in self.terms
            for name, value in loss.parts(log_probs, target).items()
        }
