"""project_out and a convolution after it as one convolution.

A convolution W over features `P z + b` is a convolution `[W P, W b]` over `[z; 1]`: exact in real
numbers, differentiable in W, P and b, and cheaper by about C / d, since it never makes the C
channels. The channel of ones is zero-padded like z, so that the border is exact too: outside the
map the features are zero, not b.
"""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze_cli.quantizers.base import AffineMap


def append_ones(vectors: Tensor) -> Tensor:
    """`[B, d, h, w]` to `[B, d + 1, h, w]`, the last channel 1, in channels-last memory."""
    b, _, h, w = vectors.shape
    nhwc = vectors.permute(0, 2, 3, 1)
    return torch.cat([nhwc, nhwc.new_ones(b, h, w, 1)], dim=3).permute(0, 3, 1, 2)


def fold_weight(weight_ocij: Tensor, output_map: AffineMap) -> Tensor:
    """The convolution weight `[O, C, i, j]` over features as one `[O, d + 1, i, j]` over `[z; 1]`."""
    o, c, i, j = weight_ocij.shape
    extended = torch.cat([output_map.weight, output_map.bias[:, None]], dim=1)
    taps = weight_ocij.permute(0, 2, 3, 1).reshape(o * i * j, c)
    return (taps @ extended).view(o, i, j, -1).permute(0, 3, 1, 2)
