"""The contract of all heads, and the small convolutional head, the default of most backbones."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from squeeze_cli.kernels.folding import AffineMap, append_ones, convolve_folded

HIDDEN_CHANNELS = 256


class SegmentationHead(nn.Module):
    """Base of all heads: feature maps, or code vectors, to logits on the same grid.

    Attributes:
        expects_raw_features: Whether the head has a pretrained first layer, whose input are the
            backbone's features without normalization.
    """

    expects_raw_features: bool = False

    @abstractmethod
    def forward(self, maps: Tensor, output_map: AffineMap | None = None) -> Tensor:
        """Compute logits `[B, K, h, w]` of features `[B, C, h, w]`.

        With `output_map`, `maps` are code vectors `[B, d, h, w]` of the features
        `output_map.map_channels(maps)`. The map is folded into the first convolution
        (`kernels/folding.py`), so that the features are not computed.
        """


class ConvolutionalHead(SegmentationHead):
    """3×3 convolution → BatchNorm → ReLU → 1×1 convolution."""

    def __init__(self, feature_dim: int, num_classes: int, hidden: int = HIDDEN_CHANNELS) -> None:
        super().__init__()
        self.first = nn.Conv2d(feature_dim, hidden, kernel_size=3, padding=1, bias=False)
        self.first.to(memory_format=torch.channels_last)  # for `fold`
        self.norm = nn.BatchNorm2d(hidden)
        self.last = nn.Conv2d(hidden, num_classes, kernel_size=1)

    def forward(self, maps: Tensor, output_map: AffineMap | None = None) -> Tensor:
        """Compute logits of features, or of code vectors; see `SegmentationHead.forward`."""
        if output_map is None:
            hidden = self.first(maps)
        else:
            hidden = convolve_folded(self.first, append_ones(maps), output_map)
        logits: Tensor = self.last(F.relu(self.norm(hidden)))
        return logits
