"""Soft Dice loss over several classes (Milletari et al., 2016, arXiv:1606.04797)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from squeeze_cli.losses.base import IGNORE_INDEX, SegmentationLoss, weighted_mean

SMOOTHING = 1.0


class DiceLoss(SegmentationLoss):
    """1 - 2|P∩T| / (|P| + |T|), over the whole batch, averaged over the classes in the target.

    Classes that no target pixel of the batch has are left out, as mean IoU leaves them out: their
    Dice would be 0 whatever the prediction. Class weights weigh the classes' terms.
    """

    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """See `SegmentationLoss.parts`."""
        classes = log_probs.shape[1]
        valid = (target != IGNORE_INDEX)[:, None]
        probs = log_probs.exp() * valid
        one_hot = (
            F.one_hot(target.masked_fill(~valid[:, 0], 0), classes).permute(0, 3, 1, 2) * valid
        )
        overlap = (probs * one_hot).sum(dim=(0, 2, 3))
        target_size = one_hot.sum(dim=(0, 2, 3))
        total = probs.sum(dim=(0, 2, 3)) + target_size
        dice = (2 * overlap + SMOOTHING) / (total + SMOOTHING)
        weights = self.weights_for(classes)
        present = (target_size > 0).to(dice)
        return {
            "dice": weighted_mean(
                1 - dice, present * (weights if weights is not None else torch.ones_like(dice))
            )
        }
