"""The discrete cosine transform of feature maps (Ahmed et al., 1974, doi:10.1109/T-C.1974.223784)."""

import math
from functools import lru_cache

import torch
from torch import Tensor


def to_frequencies(maps: Tensor) -> Tensor:
    """Return the coefficients `[B, C, h, w]` of maps of the same shape, by the orthonormal DCT-II.

    Coefficient (u, v) of a channel belongs to u half-waves along the columns and v along the rows.
    """
    return _transform(maps, *(_basis(side).to(maps) for side in maps.shape[-2:]))


def from_frequencies(coefficients: Tensor) -> Tensor:
    """Return the maps `[B, C, h, w]` with these coefficients, by the inverse transform."""
    bases = (_basis(side).to(coefficients).T for side in coefficients.shape[-2:])
    return _transform(coefficients, *bases)


def _transform(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return `rows @ map @ columns.T` for each map of each image.

    All products have the same shape in every batch, and so an image has the same bits in each.
    """
    flat = maps.flatten(0, 1)
    count = len(flat)
    along = torch.bmm(rows.expand(count, -1, -1), flat)
    return torch.bmm(along, columns.T.expand(count, -1, -1)).view(maps.shape)


@lru_cache(maxsize=64)
def _basis(side: int) -> Tensor:
    """Return the matrix `[side, side]` of the transform; row u is the half-waves of frequency u."""
    positions = torch.arange(side, dtype=torch.float64)
    waves = torch.cos(math.pi * (positions + 0.5) * positions[:, None] / side)
    waves[0] *= math.sqrt(0.5)
    return (waves * math.sqrt(2 / side)).float()  # not every device has float64
