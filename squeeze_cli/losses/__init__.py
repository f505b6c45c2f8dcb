"""Segmentation losses."""

from squeeze_cli.config.parts import LOSSES
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.losses.segmentation import SegmentationLoss


def create_loss(config: ModelConfig) -> SegmentationLoss:
    """Build the loss that `config.loss_type` names, with the class weights of `config`."""
    loss: SegmentationLoss = LOSSES.load(config.loss_type)(config.class_weights, config.use_kernels)
    return loss
