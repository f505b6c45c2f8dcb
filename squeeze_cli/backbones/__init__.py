"""Frozen backbones: images to dense feature maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeeze_cli.config.parts import BACKBONES

if TYPE_CHECKING:
    from squeeze_cli.backbones.frozen import FrozenBackbone
    from squeeze_cli.config.schema import ModelConfig


def create_backbone(config: ModelConfig, image_size_px: int) -> FrozenBackbone:
    """The backbone that `config.backbone` names, frozen; its weights are there, but not yet read.

    Raises UsageError for an unknown name or an image size that the backbone cannot take, and
    SqueezeError where weights are missing.
    """
    from squeeze_cli.backbones.frozen import FrozenBackbone

    kind = BACKBONES.load(config.backbone)
    kind.check_image_size(image_size_px)
    return FrozenBackbone(kind, kind.find_weights(config), image_size_px)
