"""Losses for segmentation and for reconstruction."""

from squeeze_cli.config.parts import LOSSES
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.losses.reconstruction import ReconstructionLoss
from squeeze_cli.losses.segmentation import SegmentationLoss


def create_loss(config: ModelConfig) -> SegmentationLoss | ReconstructionLoss:
    """Build the loss that `config.loss_type` names, with the weights of `config`."""
    kind = LOSSES.load(str(config.loss_type))
    loss: SegmentationLoss | ReconstructionLoss
    if config.has_head:
        loss = kind(config.class_weights, config.use_kernels)
    else:
        loss = kind(config.cosine_weight)
    return loss
