"""Segmentation heads: feature maps to class logits."""

from torch import Tensor

from squeeze_cli.config.parts import HEADS
from squeeze_cli.heads.base import SegmentationHead


def create_head(
    name: str, feature_dim: int, num_classes: int, pretrained: dict[str, Tensor],
    use_kernels: bool = True,
) -> SegmentationHead:  # fmt: skip
    """Build the head of this name; only that of DeepLab uses the last two arguments."""
    own = (pretrained, use_kernels) if name == "deeplab" else ()
    head: SegmentationHead = HEADS.load(name)(feature_dim, num_classes, *own)
    return head
