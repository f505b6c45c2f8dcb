"""Dilated 3×3 convolutions by the products of those taps that meet the map.

With a dilation of 24 on 28 × 28 positions, the centre tap meets all positions, each tap beside it those
of 4 rows or columns, and each tap at a corner 4 × 4: together 1,296 of 7,056. The library multiplies
padding too, in the gradient of the weight all of it. The plain reference is `F.conv2d`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from squeeze_cli.config.fields import Size

# Where the taps meet more of the map, torch's convolution is as fast.
_LARGEST_SHARE = 0.25


def meets_little(size: Size, dilation: int) -> bool:
    """Return whether at most a quarter of the products of a 3×3 convolution, whose padding is its
    dilation, meet a map with the rows and columns `size`."""
    met = [side + 2 * max(0, side - dilation) for side in size]
    return met[0] * met[1] <= _LARGEST_SHARE * 9 * size[0] * size[1]


def centre_tap(weight: Tensor) -> Tensor:
    """Return the weight `[O, C, 1, 1]` that is equivalent to a weight `[O, C, 3, 3]` where the dilation
    is not smaller than the map, so that all other taps meet only padding.

    It is sliced with the channels last, as in memory, so that the gradient has this layout too.
    """
    return weight.permute(0, 2, 3, 1)[:, 1:2, 1:2].permute(0, 3, 1, 2)


def convolve_dilated(maps: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve `[B, C, h, w]` with `[O, C, 3, 3]`, padding and dilation alike, to `[B, O, h, w]`.

    The result can be differentiated once, in maps and weight. It has its channels last in memory.
    """
    convolved: Tensor = _DilatedConvolution.apply(maps.permute(0, 2, 3, 1), weight, dilation)
    return convolved.permute(0, 3, 1, 2)


class _DilatedConvolution(torch.autograd.Function):
    """The convolution of `[B, h, w, C]`; sums over taps are made in place, which autograd would copy."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.dilation = dilation
        convolved = maps.new_zeros(*maps.shape[:3], len(weight))
        for tap, seen, reached in _taps(maps, weight, dilation):
            convolved[reached] += F.linear(maps[seen], tap)
        return convolved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        maps, weight = ctx.saved_tensors
        d_maps = d_weight = None
        if ctx.needs_input_grad[0]:
            d_maps = torch.zeros_like(maps)
            for tap, seen, reached in _taps(maps, weight, ctx.dilation):
                d_maps[seen] += gradient[reached] @ tap
        if ctx.needs_input_grad[1]:
            d_weight = torch.zeros_like(weight)
            for d_tap, seen, reached in _taps(maps, d_weight, ctx.dilation):
                torch.mm(gradient[reached].flatten(0, 2).T, maps[seen].flatten(0, 2), out=d_tap)
        return d_maps, d_weight, None


_Places = tuple[slice, slice, slice]


def _taps(maps: Tensor, weight: Tensor, dilation: int) -> Iterator[tuple[Tensor, _Places, _Places]]:
    """Yield the taps `[O, C]` that meet the map, each with the places that it sees and the places of its
    results."""
    whole, first, last = slice(None), slice(None, -dilation), slice(dilation, None)
    rows, columns = (
        [(0, first, last), (1, whole, whole), (2, last, first)]
        if dilation < side
        else [(1, whole, whole)]
        for side in maps.shape[1:3]
    )
    for i, rows_seen, rows_reached in rows:
        for j, columns_seen, columns_reached in columns:
            seen, reached = (whole, rows_seen, columns_seen), (whole, rows_reached, columns_reached)
            yield weight[:, :, i, j], seen, reached
