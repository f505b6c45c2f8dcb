"""The small convolutional head of ViT and EfficientNet features."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from squeeze_cli.heads.base import SegmentationHead
from squeeze_cli.kernels.folding import AffineMap, append_ones, convolve_folded

HIDDEN_CHANNELS = 256


class ConvolutionalHead(SegmentationHead):
    """3×3 convolution → BatchNorm → ReLU → 1×1 convolution."""

    def __init__(self, feature_dim: int, num_classes: int, hidden: int = HIDDEN_CHANNELS) -> None:
        super().__init__()
        self.first = nn.Conv2d(feature_dim, hidden, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.last = nn.Conv2d(hidden, num_classes, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits `[B, K, h, w]` of features `[B, C, h, w]`."""
        return self._classify(self.first(features))

    def forward_folded(self, vectors: Tensor, output_map: AffineMap) -> Tensor:
        """Compute logits of code vectors; see `SegmentationHead.forward_folded`."""
        return self._classify(convolve_folded(self.first, append_ones(vectors), output_map))

    def _classify(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.last(F.relu(self.norm(hidden)))
        return logits
