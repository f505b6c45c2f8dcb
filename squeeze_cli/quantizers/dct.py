"""Transform coding: scalar quantization of the cosine transform of principal axes.

Neighbouring vectors of a feature map are similar, so that most coefficients of high frequency are 0.
The principal axes over channels (KLT) and the DCT over positions are those of image coding (Wallace,
1991, doi:10.1145/103085.103089); the prior of `codec/coefficient_prior.py` codes the coefficients.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vector_quantize_pytorch import FSQ

from squeeze_cli.config.defaults import STEP_SIZE
from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.kernels.folding import AffineMap
from squeeze_cli.quantizers.base import StepSize
from squeeze_cli.quantizers.projection import ProjectedQuantizer

# Values of a coefficient, from -HALF to HALF steps.
LEVELS = 255
HALF = LEVELS // 2
# Share of a step by which coefficients shrink before they are rounded: more zeros cost fewer bits.
DEAD_ZONE = 0.15


class CosineQuantizer(ProjectedQuantizer):
    """project_in → coefficients in steps, rounded → project_out; D codes per vector.

    The tokens are the frequencies of a whole map instead of its positions. A constant map of N vectors
    has a coefficient of √N times its value, and the step is √N times `step_size`, so that the same
    option suits maps of any size. Coefficients beyond `HALF` steps are clipped.
    """

    on_frequencies = True
    step: Tensor

    def __init__(self, config: QuantizerConfig, feature_dim: int, step: StepSize) -> None:
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

    @property
    def counted_sizes(self) -> tuple[int, ...]:
        """Empty: coefficients are not meant to use all values evenly, and have a prior of their own."""
        return ()

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

    def code_vectors(self) -> list[Tensor]:
        """Return none, because a code is one number."""
        return []

    def output_map(self) -> AffineMap:
        """Return `project_out` after the multiplication by the largest coefficient."""
        return AffineMap(self.project_out.weight * (HALF * self.step), self.project_out.bias)
