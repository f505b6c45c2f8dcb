"""Frozen backbones: images to dense feature maps."""

from __future__ import annotations

from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.config.parts import BACKBONES
from squeeze_cli.config.schema import ModelConfig


def create_backbone(config: ModelConfig, image_size_px: int) -> FrozenBackbone:
    """Return the frozen backbone that `config.backbone` names, with its weights not yet read.

    Raises:
        UsageError: the name is unknown, or the backbone cannot take this image size.
        SqueezeError: weights are missing.
    """
    kind = BACKBONES.load(config.backbone)
    kind.check_image_size(image_size_px)
    return FrozenBackbone(kind, kind.find_weights(config), image_size_px)
