"""torchvision's DeepLabHead: atrous spatial pyramid pooling, then a 3×3 and a 1×1 convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from squeeze_cli.heads.base import SegmentationHead
from squeeze_cli.kernels.dilated import DilatedConv2d
from squeeze_cli.kernels.folding import FoldableConv2d, append_ones, fold
from squeeze_cli.quantizers.base import AffineMap

_FIRST_LAYER = "0.convs.0.0.weight"


class DeepLabSegmentationHead(SegmentationHead):
    """torchvision's DeepLabHead, its weights under the same names, computed with less work.

    Same layers, same results up to rounding: dilated taps that reach only padding are skipped, the
    pooling branch, which is constant over the map, is projected once an image instead of at each
    position, and project_out folds into the pyramid's convolutions.
    """

    def __init__(
        self, feature_dim: int, num_classes: int, pretrained: dict[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.layers: nn.Sequential = DeepLabHead(feature_dim, num_classes)
        pyramid: Any = self.layers[0]
        for branch in pyramid.convs[:-1]:
            kind = FoldableConv2d if branch[0].kernel_size == (1, 1) else DilatedConv2d
            branch[0] = kind(branch[0])
        for module in self.layers.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True  # nothing else needs what the norms before them give
        own = self.layers.state_dict()
        fitting = {
            k: v for k, v in (pretrained or {}).items() if k in own and own[k].shape == v.shape
        }
        self.layers.load_state_dict(own | fitting)
        self.pretrained_names = tuple(fitting)
        self.expects_raw_features = _FIRST_LAYER in fitting

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[B, K, h, w]` of features `[B, C, h, w]`."""
        return self._pyramid(features, None)

    def forward_folded(self, vectors: Tensor, output_map: AffineMap) -> Tensor:
        """See `SegmentationHead.forward_folded`."""
        return self._pyramid(append_ones(vectors), output_map)

    def _pyramid(self, maps: Tensor, output_map: AffineMap | None) -> Tensor:
        pyramid: Any = self.layers[0]
        branches = [
            _apply(list(branch)[1:], branch[0](maps, output_map)) for branch in pyramid.convs[:-1]
        ]
        pooled = _pool(maps, pyramid.convs[-1], output_map)
        return self._rest(pyramid.project, branches, pooled)

    def _rest(self, project: Any, branches: list[Tensor], pooled: Tensor) -> Tensor:
        conv, *rest = project
        *weights, pooled_weight = conv.weight.flatten(1).split(branches[0].shape[1], dim=1)
        b, _, h, w = branches[0].shape
        # Branch by branch: joined they would be copied, and their gradients too.
        total = (
            F.linear(pooled.flatten(1), pooled_weight)[:, None].expand(b, h * w, -1).flatten(0, 1)
        )
        for branch, weight in zip(branches, weights, strict=True):
            total = torch.addmm(total, branch.permute(0, 2, 3, 1).reshape(b * h * w, -1), weight.T)
        mixed = _apply(rest, total.view(b, h, w, -1).permute(0, 3, 1, 2))
        return _apply(list(self.layers)[1:], mixed)


def _pool(maps: Tensor, branch: Any, output_map: AffineMap | None) -> Tensor:
    """The pooling branch before its upsampling, `[B, O, 1, 1]`; pooling commutes with project_out."""
    pooled = maps.mean(dim=(2, 3), keepdim=True)
    weight = branch[1].weight[:, :, 0, 0]
    if output_map is not None:
        weight = fold(weight, output_map)
    return _apply(list(branch)[2:], F.conv2d(pooled, weight[:, :, None, None]))


def _apply(layers: Sequence[nn.Module], maps: Tensor) -> Tensor:
    for layer in layers:
        maps = layer(maps)
    return maps
