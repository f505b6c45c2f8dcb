"""Lookup-free quantization: the sign of each dimension is a bit (Yu et al., 2023, arXiv:2310.05737)."""

from __future__ import annotations

from math import log2
from typing import Self

import torch
from torch import Tensor
from vector_quantize_pytorch import LFQ

from squeeze_cli.config.defaults import BOTTLENECK_DIM, CODEBOOK_SIZE
from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.quantizers.base import StepSize
from squeeze_cli.quantizers.projection import WhitenedQuantizer


class LFQWithProjection(WhitenedQuantizer):
    """project_in → log2(codebook_size) whitened dimensions → their signs → project_out.

    The entropy loss rewards confident codes in each vector and an even use of the codes over the
    batch (`diversity_gamma`). `spherical` projects the vectors to the unit sphere first (BSQ,
    Zhao et al., 2024, arXiv:2406.07548).
    """

    def __init__(
        self,
        feature_dim: int,
        *,
        codebook_size: int = CODEBOOK_SIZE,
        bottleneck_dim: int = BOTTLENECK_DIM,
        entropy_loss_weight: float = 0.1,
        diversity_gamma: float = 0.1,
        commitment_weight: float = 0.25,
        spherical: bool = False,
        loss_weight: float = 0.1,
    ) -> None:
        bits = int(log2(codebook_size))
        super().__init__(feature_dim, bottleneck_dim, code_dim=bits)
        self.code_sizes = (codebook_size,)
        self.loss_weight = loss_weight
        self.lfq = LFQ(
            dim=bits,
            codebook_size=codebook_size,
            entropy_loss_weight=entropy_loss_weight,
            diversity_gamma=diversity_gamma,
            commitment_loss_weight=commitment_weight,
            spherical=spherical,
        )

    @classmethod
    def from_config(cls, config: QuantizerConfig, feature_dim: int, step: StepSize) -> Self:
        """Build the quantizer from the configuration's fields."""
        del step  # nothing is learned from how often a code is used
        return cls(
            feature_dim,
            codebook_size=config.codebook_size or CODEBOOK_SIZE,
            bottleneck_dim=config.bottleneck_dim,
            entropy_loss_weight=config.entropy_loss_weight,
            diversity_gamma=config.diversity_gamma,
            commitment_weight=config.commitment_weight,
            spherical=config.spherical,
            loss_weight=config.vq_loss_weight,
        )

    def quantize(self, tokens_bnc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize tokens; see `Quantizer.quantize`.

        The loss is the sum of entropy and commitment loss, and may be negative.
        """
        vectors, indices, loss = self.lfq(self.code_input(tokens_bnc))
        codes = indices.unsqueeze(-1)
        if not self.training:
            vectors = self.lookup(codes)
        return vectors, codes, loss.sum() * self.loss_weight

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Return corners of the cube `[B, N, d]` with entries ±1 (scaled to the sphere if spherical)."""
        vectors: Tensor = self.lfq.indices_to_codes(codes_bnq[..., 0])
        return vectors

    def code_vectors(self) -> list[Tensor]:
        """Return all corners `[codebook_size, d]`."""
        indices = torch.arange(self.code_sizes[0], device=self.to_code.weight.device)
        return [self.lfq.indices_to_codes(indices[None])[0]]
