"""Losses for segmentation, and that of decoded features for training without masks."""

import torch
from torch import Tensor, nn

from squeeze_cli.config.parts import LOSSES
from squeeze_cli.config.schema import ModelConfig


def create_loss(config: ModelConfig) -> nn.Module:
    """Build the loss that `config.loss_type` names, with the weights of `config`."""
    kind = LOSSES.load(str(config.loss_type))
    loss: nn.Module = (
        kind(config.class_weights, config.use_kernels)
        if config.has_head
        else kind(config.cosine_weight)
    )
    return loss


class ReconstructionLoss(nn.Module):
    """Mean squared error of feature vectors, plus `cosine_weight` times 1 - cosine similarity."""

    def __init__(self, cosine_weight: float = 0.0) -> None:
        super().__init__()
        self.cosine_weight = cosine_weight

    def forward(self, decoded: Tensor, features: Tensor, counted: Tensor) -> Tensor:
        """Compute the scalar loss between decoded and original features `[B, C, h, w]`.

        Only vectors where `counted` `[B, h, w]` is true contribute; without any the loss is 0.
        """
        costs = (decoded - features).square().mean(dim=1)
        if self.cosine_weight:
            similarity = torch.cosine_similarity(decoded, features, dim=1)
            costs = costs + self.cosine_weight * (1 - similarity)
        return (costs * counted).sum() / counted.sum().clamp_min(1)
