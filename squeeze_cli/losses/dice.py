"""Soft Dice loss over several classes (Milletari et al., 2016, arXiv:1606.04797)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.losses.base import SegmentationLoss, weighted_mean

SMOOTHING = 1.0


class DiceLoss(SegmentationLoss):
    """1 - 2|P∩T| / (|P| + |T|), over the whole batch, averaged over the classes in the target.

    Classes without a target pixel in the batch are left out, because their Dice would be 0 whatever
    the prediction is. Class weights weigh the terms of the classes.
    """

    def parts(self, log_probs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the part `dice`; see `SegmentationLoss.parts`."""
        classes = log_probs.shape[1]
        valid = target != IGNORE_INDEX
        probs = log_probs.exp() * valid[:, None]
        log_pt = -F.nll_loss(log_probs, target, reduction="none", ignore_index=IGNORE_INDEX)
        # Ignored pixels go to a bin of their own, which is cut off.
        bins = target.masked_fill(~valid, classes).flatten()
        overlap = log_probs.new_zeros(classes + 1).index_add(0, bins, log_pt.exp().flatten())
        overlap = overlap[:classes]
        target_size = torch.bincount(bins, minlength=classes + 1)[:classes]
        total = probs.sum(dim=(0, 2, 3)) + target_size
        dice = (2 * overlap + SMOOTHING) / (total + SMOOTHING)
        weights = self.weights_for(classes)
        present = (target_size > 0).to(dice)
        return {
            "dice": weighted_mean(
                1 - dice, present * (weights if weights is not None else torch.ones_like(dice))
            )
        }
