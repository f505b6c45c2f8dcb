"""Linear segmentation probe, as in DINOv2 (Oquab et al., 2023, arXiv:2304.07193)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from squeeze_cli.heads.base import SegmentationHead
from squeeze_cli.kernels.folding import AffineMap, append_ones, fold


class LinearHead(SegmentationHead):
    """BatchNorm → 1×1 convolution."""

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(feature_dim)
        self.last = nn.Conv2d(feature_dim, num_classes, kernel_size=1)

    def forward(self, maps: Tensor, output_map: AffineMap | None = None) -> Tensor:
        """Compute logits of features, or of code vectors; see `SegmentationHead.forward`.

        In training, the features are computed, because BatchNorm needs their statistics. In eval mode
        BatchNorm is an affine map, which is folded together with `output_map`.
        """
        logits: Tensor
        if output_map is None or self.training:
            features = maps if output_map is None else output_map.map_channels(maps)
            logits = self.last(self.norm(features))
            return logits
        running_mean, running_var = self.norm.running_mean, self.norm.running_var
        assert running_mean is not None
        assert running_var is not None
        scale = self.norm.weight * torch.rsqrt(running_var + self.norm.eps)
        normalized = AffineMap(
            output_map.weight * scale[:, None],
            (output_map.bias - running_mean) * scale + self.norm.bias,
        )
        return F.conv2d(append_ones(maps), fold(self.last.weight, normalized), self.last.bias)
