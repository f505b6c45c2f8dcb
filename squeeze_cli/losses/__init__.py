"""Segmentation losses, by name. The registry; nothing here imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeeze_cli.registry import Entry, Registry

if TYPE_CHECKING:
    from squeeze_cli.config import ModelConfig
    from squeeze_cli.losses.base import SegmentationLoss

LOSSES = Registry("loss")
LOSSES.register("ce", Entry("squeeze_cli.losses.cross_entropy:CrossEntropyLoss", "cross-entropy"))
LOSSES.register("dice", Entry("squeeze_cli.losses.dice:DiceLoss", "multi-class soft Dice"))
LOSSES.register("focal", Entry("squeeze_cli.losses.focal:FocalLoss", "focal, gamma 2"))
LOSSES.register(
    "combined",
    Entry("squeeze_cli.losses.combined:CombinedLoss", "1.0 CE + 1.0 Dice + 0.5 focal"),
)


def create_loss(config: ModelConfig) -> SegmentationLoss:
    """Build the loss that `config.loss_type` names, with the class weights of `config`."""
    loss: SegmentationLoss = LOSSES.load(config.loss_type)(class_weights=config.class_weights)
    return loss
