"""project_out and a convolution after it as one convolution.

A convolution W over features `P z + b` is a convolution `[W P, W b]` over `[z; 1]`: exact in real
numbers, differentiable in W, P and b, and cheaper by about C / d, since it never makes the C
channels. The channel of ones is zero-padded like z, so that the border is exact too: outside the
map the features are zero, not b.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from squeeze_cli.quantizers.base import AffineMap


class FoldableConv2d(nn.Module):
    """A convolution without bias, of features or folded, of code vectors.

    torch's fused AdamW copies whatever is not contiguous in every step, so the parameter has the
    shape `[O, i, j, C]`, as folding multiplies it; in state dicts it is `[O, C, i, j]` under the
    usual name.

    Args:
        conv: gives the initial weight and the padding.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach().permute(0, 2, 3, 1).contiguous())
        self.padding = conv.padding

    def forward(self, maps: Tensor, output_map: AffineMap | None = None) -> Tensor:
        """Convolve features `[B, C, h, w]`, or with `output_map` what `append_ones` gives."""
        weight = self.weight if output_map is None else fold(self.weight, output_map)
        return F.conv2d(maps, weight.permute(0, 3, 1, 2), padding=self.padding)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"].permute(0, 3, 1, 2)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        name = f"{prefix}weight"
        given = state_dict.get(name)
        if given is not None:
            state_dict[name] = given.permute(0, 2, 3, 1)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if given is not None:
            state_dict[name] = given


def append_ones(vectors: Tensor) -> Tensor:
    """`[B, d, h, w]` to `[B, d + 1, h, w]`, the last channel 1, in channels-last memory."""
    b, _, h, w = vectors.shape
    nhwc = vectors.permute(0, 2, 3, 1)
    return torch.cat([nhwc, nhwc.new_ones(b, h, w, 1)], dim=3).permute(0, 3, 1, 2)


def fold(taps: Tensor, output_map: AffineMap) -> Tensor:
    """Weights `[..., C]` over features as weights over the channels that `append_ones` gives."""
    # Laid out for the gradient's products, the larger part: theirs read the weights row by row.
    extended = torch.cat([output_map.weight.T, output_map.bias[None]])
    # A CPU's autocast would copy the weights, and their gradients back, for longer than the product
    # takes; other devices' is left as it is.
    with torch.autocast("cpu", enabled=False):
        return (taps.flatten(0, -2) @ extended.T).view(*taps.shape[:-1], -1)
