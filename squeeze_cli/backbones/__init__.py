"""Frozen backbones: images to dense feature maps."""

from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.config.fields import Size
from squeeze_cli.config.parts import BACKBONES
from squeeze_cli.config.schema import ModelConfig


def create_backbone(config: ModelConfig, size_px: Size) -> FrozenBackbone:
    """Return the frozen backbone that `config.backbone` names; its weights are read later.

    Raises UsageError for an unknown name or an image size that the backbone does not support,
    SqueezeError if the weights are missing.
    """
    backbone: FrozenBackbone = BACKBONES.load(config.backbone)(config, size_px)
    return backbone
