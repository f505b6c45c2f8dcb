"""Bilinear upsampling as two small matrix products: the same sums as `F.interpolate`.

Bilinear interpolation is linear and separable, so an upsampled map is `R x Cᵀ` with one matrix a
side. `python -m benchmarks.step` times both, side by side; what is gained depends on the number of
classes and threads.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F


def upsample_bilinear(maps: Tensor, size: tuple[int, int], out: Tensor | None = None) -> Tensor:
    """`F.interpolate(maps, size, mode="bilinear", align_corners=False)` up to rounding.

    Args:
        maps: `[..., h, w]`.
        size: (H, W).
        out: where to write, `[..., H, W]` and contiguous; not differentiable then.

    Returns:
        `[..., H, W]`, contiguous.
    """
    rows = _interpolation_matrix(maps.shape[-2], size[0], maps.device, maps.dtype)
    columns = _interpolation_matrix(maps.shape[-1], size[1], maps.device, maps.dtype)
    return torch.matmul(rows, maps.contiguous() @ columns.T, out=out)


def upsample_bilinear_backward(gradient: Tensor, size: tuple[int, int]) -> Tensor:
    """The gradient `[..., h, w]` of maps of `size` (h, w), from that of their upsampled ones."""
    rows = _interpolation_matrix(size[0], gradient.shape[-2], gradient.device, gradient.dtype)
    columns = _interpolation_matrix(size[1], gradient.shape[-1], gradient.device, gradient.dtype)
    return (rows.T @ gradient) @ columns


@lru_cache(maxsize=32)
def _interpolation_matrix(
    given: int, wanted: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """`[wanted, given]`: torch's own weights, read off by interpolating the unit vectors."""
    with torch.inference_mode(False), torch.no_grad():
        units = torch.eye(given, dtype=torch.float64)[None]
        matrix = F.interpolate(units, size=wanted, mode="linear", align_corners=False)[0].T
        return matrix.to(device=device, dtype=dtype).contiguous()
