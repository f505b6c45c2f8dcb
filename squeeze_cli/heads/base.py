"""The contract of all heads: feature maps, or code vectors, to logits on the same grid."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from squeeze_cli.kernels.folding import AffineMap


class SegmentationHead(nn.Module):
    """Base of all heads.

    Attributes:
        expects_raw_features: whether the head's pretrained first layer knows the backbone's
            features as they are, not normalized.
    """

    expects_raw_features: bool = False

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Compute logits `[B, K, h, w]` of features `[B, C, h, w]`."""

    @abstractmethod
    def forward_folded(self, vectors: Tensor, output_map: AffineMap) -> Tensor:
        """Compute `forward(output_map.map_channels(vectors))` of code vectors `[B, d, h, w]`.

        The map is folded into the first convolution (`kernels/folding.py`), so the features
        `[B, C, h, w]` are never computed.
        """
