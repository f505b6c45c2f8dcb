"""Lookup-free quantization: the sign of each dimension is a bit (Yu et al., 2023, arXiv:2310.05737)."""

from math import log2

from torch import Tensor
from vector_quantize_pytorch import LFQ

from squeeze_cli.config.defaults import CODEBOOK_SIZE
from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.quantizers.base import TrainingStep
from squeeze_cli.quantizers.whitening import WhitenedQuantizer


class LFQWithProjection(WhitenedQuantizer):
    """project_in → log2(codebook_size) whitened dimensions → their signs → project_out.

    The entropy loss rewards confident codes in each vector and an even use of the codes over the
    batch (`diversity_gamma`). `spherical` projects the vectors to the unit sphere first (BSQ,
    Zhao et al., 2024, arXiv:2406.07548).
    """

    def __init__(self, config: QuantizerConfig, feature_dim: int, step: TrainingStep) -> None:
        size = config.codebook_size or CODEBOOK_SIZE
        bits = int(log2(size))
        super().__init__(config, feature_dim, step, code_dim=bits)
        self.code_sizes = (size,)
        self.lfq = LFQ(
            dim=bits, codebook_size=size, entropy_loss_weight=config.entropy_loss_weight,
            diversity_gamma=config.diversity_gamma, commitment_loss_weight=config.commitment_weight,
            spherical=config.spherical,
        )  # fmt: skip

    def run_library(self, inputs_bnd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run LFQ. Its loss is the sum of entropy and commitment loss, and may be negative."""
        vectors, indices, loss = self.lfq(inputs_bnd)
        return vectors, indices.unsqueeze(-1), loss.sum()

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Return corners of the cube `[B, N, d]` with entries ±1 (scaled to the sphere if spherical)."""
        vectors: Tensor = self.lfq.indices_to_codes(codes_bnq[..., 0])
        return vectors
