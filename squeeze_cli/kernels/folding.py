"""Exact folding of `project_out` into the convolution after it.

A convolution with weight W over features `P z + b` equals a convolution with weight `[W P, W b]`
over `[z; 1]`. Both give the same numbers up to rounding, and both are differentiable in W, P and b.
The folded one is cheaper by about C / d because it does not compute the C feature channels. The
channel of ones is zero-padded like z, so the border is exact too: outside the map, features are zero
and not b.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class AffineMap:
    """The map `features = weight @ code_vector + bias`, with weight `[C, d]` and bias `[C]`."""

    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """Map vectors `[..., d]` to features `[..., C]`."""
        return F.linear(vectors, self.weight, self.bias)

    def map_channels(self, vectors: Tensor) -> Tensor:
        """Map `[B, d, h, w]` to `[B, C, h, w]`."""
        return self(vectors.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def append_ones(vectors: Tensor) -> Tensor:
    """Append a channel of ones: `[B, d, h, w]` to `[B, d + 1, h, w]`."""
    return torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1)


def fold(weight: Tensor, output_map: AffineMap) -> Tensor:
    """Fold the map into a convolution's weight over features, `[O, C, i, j]`.

    The result is the weight `[O, d + 1, i, j]` over the channels that `append_ones` gives. The sum is
    over the C channels: a weight with those last in memory, and its gradient, are not copied.
    """
    extended = torch.cat([output_map.weight, output_map.bias[:, None]], dim=1)  # [C, d + 1]
    # A CPU's autocast would copy the weight to bfloat16 for longer than this product takes.
    with torch.autocast("cpu", enabled=False):
        return (weight.permute(0, 2, 3, 1) @ extended).permute(0, 3, 1, 2)


def convolve_folded(conv: nn.Conv2d, extended: Tensor, output_map: AffineMap) -> Tensor:
    """Convolve code vectors as `conv`, which has no bias, convolves their features.

    `extended` is what `append_ones` gives for the code vectors, `[B, d + 1, h, w]`. The plain
    reference is `conv(output_map.map_channels(vectors))`.
    """
    weight = fold(conv.weight, output_map)
    return F.conv2d(extended, weight, None, conv.stride, conv.padding, conv.dilation)
