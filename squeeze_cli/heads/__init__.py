"""Segmentation heads: feature maps to class logits; see `create_head`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from squeeze_cli.backbones.frozen import FrozenBackbone
    from squeeze_cli.heads.base import SegmentationHead


def create_head(backbone: FrozenBackbone, feature_dim: int, num_classes: int) -> SegmentationHead:
    """The head that suits `backbone`, for maps of `feature_dim` channels.

    DeepLab keeps its own kind of head and takes the pretrained weights that came with the
    backbone, where their shapes fit; the others get a small convolutional head.
    """
    if backbone.name == "deeplab":
        from squeeze_cli.heads.deeplab_head import DeepLabSegmentationHead

        return DeepLabSegmentationHead(feature_dim, num_classes, backbone.head_state())
    from squeeze_cli.heads.convolutional import ConvolutionalHead

    return ConvolutionalHead(feature_dim, num_classes)
