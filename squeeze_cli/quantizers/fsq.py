"""Finite scalar quantization (Mentzer et al., 2023, arXiv:2309.15505)."""

from math import prod

from torch import Tensor
from vector_quantize_pytorch import FSQ

from squeeze_cli.config.defaults import FSQ_LEVELS
from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.quantizers.base import TrainingStep
from squeeze_cli.quantizers.whitening import WhitenedQuantizer

# tanh of a normal variable with this standard deviation is nearly uniform on (-1, 1). It would be
# exactly uniform for a logistic variable, whose standard deviation is sqrt(pi^2 / 12).
UNIFORM_DEVIATION = 0.907


class FSQWithProjection(WhitenedQuantizer):
    """project_in → `len(levels)` bounded dimensions, rounded → project_out; one code of prod(levels).

    The codebook is implicit: it is not learned, cannot collapse and has no loss.
    """

    def __init__(self, config: QuantizerConfig, feature_dim: int, step: TrainingStep) -> None:
        levels = config.levels or FSQ_LEVELS
        super().__init__(config, feature_dim, step, code_dim=len(levels))
        self.code_sizes = (prod(levels),)
        self.fsq = FSQ(levels=list(levels))

    def run_library(self, inputs_bnd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run FSQ, which has no loss."""
        vectors, indices = self.fsq(inputs_bnd * UNIFORM_DEVIATION)
        return vectors, indices.long().unsqueeze(-1), vectors.new_zeros(())

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Return grid points `[B, N, d]` with entries in [-1, 1]."""
        vectors: Tensor = self.fsq.indices_to_codes(codes_bnq[..., 0])
        return vectors
