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


def upsample_bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """`F.interpolate(maps, size, mode="bilinear", align_corners=False)` up to rounding.

    Args:
        maps: `[B, K, h, w]`.
        size: (H, W).

    Returns:
        `[B, K, H, W]`, contiguous.
    """
    rows, columns = interpolation_matrices(maps, size)
    return rows @ (maps.contiguous() @ columns.T)


def interpolation_matrices(maps: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """R `[H, h]` and C `[W, w]` for maps `[..., h, w]` and size (H, W)."""
    return (
        _interpolation_matrix(maps.shape[-2], size[0], maps.device, maps.dtype),
        _interpolation_matrix(maps.shape[-1], size[1], maps.device, maps.dtype),
    )


@lru_cache(maxsize=32)
def _interpolation_matrix(
    given: int, wanted: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """`[wanted, given]`: torch's own weights, read off by interpolating the unit vectors."""
    with torch.inference_mode(False), torch.no_grad():
        units = torch.eye(given, dtype=torch.float64)[None]
        matrix = F.interpolate(units, size=wanted, mode="linear", align_corners=False)[0].T
        return matrix.to(device=device, dtype=dtype).contiguous()
