"""Transform coding: scalar quantization of the cosine transform of principal axes.

Neighbouring vectors of a feature map are similar, so that most coefficients of high frequency are 0.
The principal axes over channels (KLT) and the DCT over positions are those of image coding (Wallace,
1991, doi:10.1145/103085.103089); the prior of `codec/coefficient_prior.py` codes the coefficients.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from vector_quantize_pytorch import FSQ

from squeeze_cli.codec.coefficient_prior import fit_coefficients
from squeeze_cli.codec.prior import Prior
from squeeze_cli.config.defaults import LEVELS, STEP_SIZE
from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.console import Reporter
from squeeze_cli.kernels.folding import AffineMap
from squeeze_cli.quantizers.base import TrainingStep
from squeeze_cli.quantizers.projection import ProjectedQuantizer
from squeeze_cli.quantizers.rate import CoefficientRate

HALF = LEVELS // 2  # a coefficient has from -HALF to HALF steps
# Share of a step by which coefficients shrink before they are rounded: more zeros cost fewer bits.
DEAD_ZONE = 0.15


class CosineQuantizer(ProjectedQuantizer):
    """project_in → coefficients in steps, rounded → project_out; D codes per vector.

    The tokens are the frequencies of a whole map instead of its positions. A constant map of N vectors
    has a coefficient of √N times its value, and the step is √N times `step_size`, so that the same
    option suits maps of any size. Coefficients beyond `HALF` steps are clipped.
    """

    on_frequencies = True
    stand_for_vectors = False  # a coefficient is a number, and all have a prior of their own
    step: Tensor

    def __init__(self, config: QuantizerConfig, feature_dim: int, step: TrainingStep) -> None:
        super().__init__(config, feature_dim, step)
        size = (config.step_size or STEP_SIZE) * math.sqrt(step.vectors_per_image)
        self.register_buffer("step", torch.tensor(size))  # digests of the network cover it
        self.code_sizes = (LEVELS,) * self.bottleneck_dim
        self.fsq = FSQ(
            levels=[LEVELS], num_codebooks=self.bottleneck_dim, keep_num_codebooks_dim=True,
            bound_hard_clamp=True,
        )  # fmt: skip
        # A bias would be added to all frequencies.
        self.project_in = nn.Linear(feature_dim, self.bottleneck_dim, bias=False)
        self.coefficients = (step.vectors_per_image, self.bottleneck_dim)

    def code_input(self, tokens_bnc: Tensor) -> Tensor:
        """Return the coefficients `[B, N, D]` in steps."""
        coefficients: Tensor = self.project_in(tokens_bnc) / self.step
        # Gradients pass unchanged, so that training can raise a coefficient out of the dead zone.
        shrunk = F.softshrink(coefficients, DEAD_ZONE)
        return coefficients + (shrunk - coefficients).detach()

    def run_library(self, inputs_bnd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run FSQ with a code for each coefficient. It has no loss."""
        vectors, indices = self.fsq(inputs_bnd / HALF)
        return vectors, indices.long(), vectors.new_zeros(())

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Return the coefficients `[B, N, D]`, as shares of the largest."""
        vectors: Tensor = self.fsq.indices_to_codes(codes_bnq)
        return vectors

    def output_map(self) -> AffineMap:
        """Return `project_out` after the multiplication by the largest coefficient."""
        return AffineMap(self.project_out.weight * (HALF * self.step), self.project_out.bias)

    def rate_model(self) -> nn.Module:
        """Return a model of independent coefficients."""
        return CoefficientRate(self.coefficients)

    def fit_prior(
        self, codes_nhwq: NDArray[np.int32], reporter: Reporter, *, seed: int, prefixes: bool
    ) -> Prior:
        """Fit the prior of coefficients, which takes a moment and needs no seed."""
        return fit_coefficients(codes_nhwq, LEVELS)


def to_frequencies(maps: Tensor) -> Tensor:
    """Return the coefficients `[B, C, h, w]` of maps of the same shape, by the orthonormal DCT-II
    (Ahmed et al., 1974, doi:10.1109/T-C.1974.223784).

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
