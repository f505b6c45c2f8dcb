"""Batch whitening: zero mean, unit variance and no correlation (Huang et al., 2018, arXiv:1804.08450).

Like BatchNorm it takes the statistics of the batch in training and running ones in eval mode,
where it is an affine map; unlike BatchNorm it also takes out correlation between the dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOMENTUM = 0.05
# Share of the mean variance that is added to each variance: keeps a batch of few vectors regular.
SHRINKAGE = 1e-3


class Whitening(nn.Module):
    """`L⁻¹ (x - mean)` with `L Lᵀ` the covariance (Cholesky): continuous in x, unlike rotations."""

    running_mean: Tensor
    running_covariance: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_covariance", torch.eye(dim))

    @torch.no_grad()
    def fit(self, vectors_nd: Tensor) -> None:
        """Set the running statistics to those of vectors `[n, d]`."""
        mean, covariance = _statistics(vectors_nd)
        self.running_mean.copy_(mean)
        self.running_covariance.copy_(covariance)

    def forward(self, vectors_nd: Tensor) -> Tensor:
        """Whitened vectors `[n, d]`."""
        if self.training:
            mean, covariance = _statistics(vectors_nd)
            with torch.no_grad():
                self.running_mean.lerp_(mean, MOMENTUM)
                self.running_covariance.lerp_(covariance, MOMENTUM)
        else:
            mean, covariance = self.running_mean, self.running_covariance
        shrinkage = SHRINKAGE * covariance.diagonal().mean().clamp_min(1e-12)
        identity = torch.eye(len(mean), device=mean.device, dtype=mean.dtype)
        factor = torch.linalg.cholesky(covariance + shrinkage * identity)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        whitened: Tensor = (vectors_nd - mean) @ inverse.T
        return whitened


def _statistics(vectors_nd: Tensor) -> tuple[Tensor, Tensor]:
    mean = vectors_nd.mean(dim=0)
    centred = vectors_nd - mean
    return mean, centred.T @ centred / len(vectors_nd)
