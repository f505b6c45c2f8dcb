"""Segmentation heads: feature maps to class logits."""

from __future__ import annotations

from torch import Tensor

from squeeze_cli.heads.base import ConvolutionalHead, SegmentationHead
from squeeze_cli.heads.deeplab_head import DeepLabSegmentationHead


def create_head(
    backbone: str,
    feature_dim: int,
    num_classes: int,
    pretrained: dict[str, Tensor],
) -> SegmentationHead:
    """Build the head that suits a backbone: DeepLab's own kind, or a small convolutional one.

    Args:
        backbone: the backbone's registered name.
        feature_dim: channels of the feature maps.
        num_classes: outputs.
        pretrained: weights of a head that came with the backbone's, by the head's names; they are
            taken where their shapes fit.
    """
    if backbone == "deeplab":
        return DeepLabSegmentationHead(feature_dim, num_classes, pretrained)
    return ConvolutionalHead(feature_dim, num_classes)
