"""The loss of a quantizer that is trained without masks: how far the decoded features are off."""

import torch
from torch import Tensor, nn


class ReconstructionLoss(nn.Module):
    """Mean squared error, and `cosine_weight` times 1 - cosine similarity, of feature vectors."""

    def __init__(self, cosine_weight: float = 0.0) -> None:
        super().__init__()
        self.cosine_weight = cosine_weight

    def forward(self, decoded: Tensor, features: Tensor, counted: Tensor) -> Tensor:
        """Compute the scalar loss of decoded features `[B, C, h, w]` for the `features` themselves.

        Only vectors where `counted` `[B, h, w]` is true count; without any the loss is 0.
        """
        costs = (decoded - features).square().mean(dim=1)
        if self.cosine_weight:
            similarity = torch.cosine_similarity(decoded, features, dim=1)
            costs = costs + self.cosine_weight * (1 - similarity)
        return (costs * counted).sum() / counted.sum().clamp_min(1)
