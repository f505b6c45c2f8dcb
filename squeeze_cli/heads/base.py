"""What every head is: feature maps to logits at the same grid, from features or from code vectors."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from squeeze_cli.quantizers.base import AffineMap


class SegmentationHead(nn.Module):
    """Base of all heads.

    `expects_raw_features` is True for a head whose pretrained first layer knows the backbone's
    features as they come, not normalized.
    """

    expects_raw_features: bool = False

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Logits `[B, K, h, w]` of features `[B, C, h, w]`."""

    @abstractmethod
    def forward_folded(self, vectors: Tensor, output_map: AffineMap) -> Tensor:
        """The same logits from code vectors `[B, d, h, w]`, whose features are `output_map` of them.

        The map is folded into the first convolution (`heads/folding.py`): the features `[B, C, h, w]`
        never come to be.
        """
