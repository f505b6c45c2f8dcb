"""Segmentation heads: feature maps to class logits."""

from torch import Tensor

from squeeze_cli.heads.base import ConvolutionalHead, SegmentationHead
from squeeze_cli.heads.deeplab_head import DeepLabSegmentationHead


def create_head(
    backbone: str,
    feature_dim: int,
    num_classes: int,
    pretrained: dict[str, Tensor],
    use_kernels: bool = True,
) -> SegmentationHead:
    """Build the head that suits a backbone; weights of a `pretrained` one are taken where they fit."""
    if backbone == "deeplab":
        return DeepLabSegmentationHead(feature_dim, num_classes, pretrained, use_kernels)
    return ConvolutionalHead(feature_dim, num_classes)
