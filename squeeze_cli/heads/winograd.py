"""3×3 convolutions by Winograd's minimal filtering, with a quarter of the multiplications.

Lavin and Gray, 2015, arXiv:1509.09308: a tile of 4 × 4 outputs comes from 6 × 6 inputs by 36
products a pair of channels instead of 144. Tiles, weights and outputs pass through small fixed
matrices, and what is left are 36 matrix products. In float32 the outcome is within 1e-5 of its
largest entry (`tests/heads/test_winograd.py`); the gradient is that of this very computation.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
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


@lru_cache(maxsize=4)
def _transforms(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For a window `[36, 36]`, a weight `[36, 9]` and a tile of outputs `[16, 36]`."""
    with torch.inference_mode(False), torch.no_grad():
        rows = [torch.tensor(m, dtype=torch.float64) for m in (_INPUT, _WEIGHT, _OUTPUT)]
        window, weight, output = (torch.kron(m, m).to(device, torch.float32) for m in rows)
        return window, weight, output


class _WinogradConvolution(torch.autograd.Function):
    """Channels-last: x `[B, h, w, C]`, weight `[O, C, 3, 3]`, y `[B, h, w, O]`; P tiles in all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        b, h, w, c = x.shape
        o = len(weight)
        down, across = -(-h // _TILE), -(-w // _TILE)
        window, filters, output = _transforms(x.device)
        padded = F.pad(x, (0, 0, 1, _TILE * across + 1 - w, 1, _TILE * down + 1 - h))
        tiles = padded.unfold(1, _WINDOW, _TILE).unfold(2, _WINDOW, _TILE).permute(4, 5, 0, 1, 2, 3)
        tiles_36pc = (window @ tiles.reshape(36, -1)).view(36, -1, c)
        weights_36co = (filters @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, c, o)
        products = torch.bmm(tiles_36pc, weights_36co)
        out = (output @ products.view(36, -1)).view(_TILE, _TILE, b, down, across, o)
        ctx.save_for_backward(tiles_36pc, weights_36co)
        ctx.sizes = b, h, w, down, across
        return out.permute(2, 3, 0, 4, 1, 5).reshape(b, _TILE * down, _TILE * across, o)[:, :h, :w]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        tiles_36pc, weights_36co = ctx.saved_tensors
        b, h, w, down, across = ctx.sizes
        _, c, o = weights_36co.shape
        window, filters, output = _transforms(dy.device)
        dy = F.pad(dy, (0, 0, 0, _TILE * across - w, 0, _TILE * down - h))
        tiles = dy.reshape(b, down, _TILE, across, _TILE, o).permute(2, 4, 0, 1, 3, 5)
        d_products = (output.T @ tiles.reshape(16, -1)).view(36, -1, o)
        dx = d_weight = None
        if ctx.needs_input_grad[1]:
            d_weights = torch.bmm(tiles_36pc.transpose(1, 2), d_products)
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
