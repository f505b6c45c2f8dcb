"""Frozen backbones: images to dense feature maps. The registry; nothing here imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeeze_cli.registry import Entry, Registry

if TYPE_CHECKING:
    from squeeze_cli.backbones.frozen import FrozenBackbone
    from squeeze_cli.config import ModelConfig

BACKBONES = Registry("backbone")
BACKBONES.register(
    "vit",
    Entry(
        "squeeze_cli.backbones.vit:ViTBackbone",
        "ViT-B/32, ImageNet, 768 channels at stride 32",
        options=frozenset({"vit_weights"}),
        defaults={"num_classes": 21},
    ),
)
BACKBONES.register(
    "deeplab",
    Entry(
        "squeeze_cli.backbones.deeplab:DeepLabBackbone",
        "DeepLabV3-ResNet50, COCO, 2048 channels at stride 8",
        options=frozenset({"deeplab_weights"}),
        defaults={"num_classes": 3},
    ),
)
BACKBONES.register(
    "efficientnet-lite0",
    Entry(
        "squeeze_cli.backbones.efficientnet_lite:EfficientNetLite0Backbone",
        "EfficientNet-Lite0, ImageNet, 320 channels at stride 16",
        defaults={"num_classes": 3},
    ),
)


def create_backbone(config: ModelConfig, image_size_px: int) -> FrozenBackbone:
    """The backbone that `config.backbone` names, frozen; its weights are there, but not yet read.

    Raises UsageError for an unknown name or an image size that the backbone cannot take, and
    SqueezeError where weights are missing.
    """
    from squeeze_cli.backbones.frozen import FrozenBackbone

    kind = BACKBONES.load(config.backbone)
    kind.check_image_size(image_size_px)
    return FrozenBackbone(kind, kind.find_weights(config), image_size_px)
