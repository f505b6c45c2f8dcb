"""3×3 convolutions by Winograd's minimal filtering, with a quarter of the multiplications.

Lavin and Gray, 2015, arXiv:1509.09308: a tile of 4 × 4 outputs comes from 6 × 6 inputs by 36
products a pair of channels instead of 144. Tiles, weights and outputs pass through small fixed
matrices, and what is left are 36 matrix products. In float32 the outcome is within 2e-5 of its
largest entry (`tests/test_winograd.py`); the gradient is that of this very computation.

A dilated convolution is one of its own on each of the grids of every d-th row and column.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# F(4×4, 3×3) of the paper; two of them, one a side, are one matrix (`_transforms`).
_INPUT = (
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
)  # fmt: skip
_WEIGHT = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
_TILE, _WINDOW = 4, 6
# With fewer channels the transforms take longer than the products that they save.
_WORTHWHILE_CHANNELS = 128

_Network = TypeVar("_Network", bound=nn.Module)


def winograd_convolution(maps: Tensor, weight_ocij: Tensor) -> Tensor:
    """`conv2d(maps, weight, padding=1)` for a 3×3 weight, differentiable once.

    Args:
        maps: `[B, C, h, w]` float32, best in channels-last memory.
        weight_ocij: `[O, C, 3, 3]`.

    Returns:
        `[B, O, h, w]` in channels-last memory.
    """
    out: Tensor = _WinogradConvolution.apply(maps.permute(0, 2, 3, 1), weight_ocij)
    return out.permute(0, 3, 1, 2)


def with_winograd(network: _Network) -> _Network:
    """A copy of a frozen float32 network, its 3×3 convolutions by Winograd's algorithm where it pays.

    Parameters and buffers are shared with the original; transformed weights come in addition, each
    when it is first used.
    """
    shared: dict[int, Any] = {id(t): t for t in (*network.parameters(), *network.buffers())}
    quick = deepcopy(network, shared)
    for parent in list(quick.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and _pays(child):
                setattr(parent, name, _FrozenConvolution(child))
    return quick


def _pays(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.groups == 1
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and conv.padding == conv.dilation
        and conv.dilation[0] == conv.dilation[1]
        and min(conv.in_channels, conv.out_channels) >= _WORTHWHILE_CHANNELS
    )


class _FrozenConvolution(nn.Module):
    """A 3×3 convolution that is never trained: its weight is transformed once."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.dilation = conv.dilation[0]
        self.weight = conv.weight

    @cached_property
    def weights_36co(self) -> Tensor:
        """The weight, transformed; where only the layers before this one are run, never."""
        return _transform_weight(self.weight.detach())

    def forward(self, maps: Tensor) -> Tensor:
        """`[B, C, h, w]` to `[B, O, h, w]` in channels-last memory."""
        x = maps.permute(0, 2, 3, 1)
        products = torch.bmm(_transform_windows(x, self.dilation), self.weights_36co)
        return _transform_products(products, x.shape, self.dilation).permute(0, 3, 1, 2)


@lru_cache(maxsize=4)
def _transforms(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For a window `[36, 36]`, a weight `[36, 9]` and a tile of outputs `[16, 36]`."""
    with torch.inference_mode(False), torch.no_grad():
        rows = [torch.tensor(m, dtype=torch.float64) for m in (_INPUT, _WEIGHT, _OUTPUT)]
        window, weight, output = (torch.kron(m, m).to(device, torch.float32) for m in rows)
        return window, weight, output


def _transform_weight(weight: Tensor) -> Tensor:
    """`[O, C, 3, 3]` to `[36, C, O]`."""
    o, c = weight.shape[:2]
    _, filters, _ = _transforms(weight.device)
    return (filters @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, c, o)


def _tiles(x_shape: torch.Size, dilation: int) -> tuple[int, int]:
    """How many tiles of every d-th row and column there are, down and across."""
    return -(-x_shape[1] // (_TILE * dilation)), -(-x_shape[2] // (_TILE * dilation))


def _transform_windows(x: Tensor, dilation: int) -> Tensor:
    """`[B, h, w, C]` to `[36, P, C]`."""
    b, h, w, c = x.shape
    d, (down, across) = dilation, _tiles(x.shape, dilation)
    padded = F.pad(x, (0, 0, d, d * (_TILE * across + 1) - w, d, d * (_TILE * down + 1) - h))
    grids = padded.reshape(b, _TILE * down + 2, d, _TILE * across + 2, d, c)
    windows = grids.unfold(1, _WINDOW, _TILE).unfold(3, _WINDOW, _TILE)
    window, _, _ = _transforms(x.device)
    return (window @ windows.permute(6, 7, 0, 1, 2, 3, 4, 5).reshape(36, -1)).view(36, -1, c)


def _transform_products(products: Tensor, x_shape: torch.Size, dilation: int) -> Tensor:
    """`[36, P, O]` to `[B, h, w, O]`."""
    b, h, w, _ = x_shape
    d, (down, across) = dilation, _tiles(x_shape, dilation)
    _, _, output = _transforms(products.device)
    out = (output @ products.flatten(1)).view(_TILE, _TILE, b, down, d, across, d, -1)
    rows_and_columns = out.permute(2, 3, 0, 4, 5, 1, 6, 7)
    return rows_and_columns.reshape(b, _TILE * down * d, _TILE * across * d, -1)[:, :h, :w]


class _WinogradConvolution(torch.autograd.Function):
    """Channels-last: x `[B, h, w, C]`, weight `[O, C, 3, 3]`, y `[B, h, w, O]`; P tiles in all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        windows_36pc, weights_36co = _transform_windows(x, 1), _transform_weight(weight)
        ctx.save_for_backward(windows_36pc, weights_36co)
        ctx.x_shape = x.shape
        return _transform_products(torch.bmm(windows_36pc, weights_36co), x.shape, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        windows_36pc, weights_36co = ctx.saved_tensors
        b, h, w, c = ctx.x_shape
        down, across = _tiles(ctx.x_shape, 1)
        o = weights_36co.shape[2]
        window, filters, output = _transforms(dy.device)
        dy = F.pad(dy, (0, 0, 0, _TILE * across - w, 0, _TILE * down - h))
        tiles = dy.reshape(b, down, _TILE, across, _TILE, o).permute(2, 4, 0, 1, 3, 5)
        d_products = (output.T @ tiles.reshape(16, -1)).view(36, -1, o)
        dx = d_weight = None
        if ctx.needs_input_grad[1]:
            d_weights = torch.bmm(windows_36pc.transpose(1, 2), d_products)
            d_weight = (filters.T @ d_weights.view(36, -1)).view(3, 3, c, o).permute(3, 2, 0, 1)
        if ctx.needs_input_grad[0]:
            d_tiles = torch.bmm(d_products, weights_36co.transpose(1, 2))
            d_windows = (window.T @ d_tiles.view(36, -1)).view(6, 6, b, down, across, c)
            padded = dy.new_zeros(b, _TILE * down + 2, _TILE * across + 2, c)
            for i in range(_WINDOW):
                for j in range(_WINDOW):
                    rows, columns = (
                        slice(i, i + _TILE * down - 3, 4),
                        slice(j, j + _TILE * across - 3, 4),
                    )
                    padded[:, rows, columns] += d_windows[i, j]
            dx = padded[:, 1 : h + 1, 1 : w + 1]
        return dx, d_weight
