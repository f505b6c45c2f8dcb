"""Residual vector quantization: each codebook codes what the ones before it left over.

Zeghidour et al., SoundStream, 2021, arXiv:2107.03312, algorithm 1.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from vector_quantize_pytorch import ResidualVQ

from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.quantizers.base import ProjectedQuantizer
from squeeze_cli.quantizers.codebooks import (
    initialize_codebook,
    nearest_codes,
    train_codebook,
)


class ResidualVQWithProjection(ProjectedQuantizer):
    """project_in → `num_quantizers` codebooks of `codebook_size`, one after the other → project_out.

    Code q = 0 is the coarsest. The commitment losses of the levels are summed.
    """

    has_codebook = True

    def __init__(
        self,
        feature_dim: int,
        *,
        num_quantizers: int = 4,
        codebook_size: int = 256,
        bottleneck_dim: int = 64,
        decay: float = 0.99,
        commitment_weight: float = 0.25,
        loss_weight: float = 0.1,
        initialize_codebook: bool = True,
    ) -> None:
        super().__init__(feature_dim, bottleneck_dim)
        self.code_sizes = (codebook_size,) * num_quantizers
        self.loss_weight = loss_weight
        self._kmeans = initialize_codebook
        self.rvq = ResidualVQ(
            dim=bottleneck_dim,
            num_quantizers=num_quantizers,
            codebook_size=codebook_size,
            decay=decay,
            commitment_weight=commitment_weight,
            threshold_ema_dead_code=1e-6,  # on; `set_dead_code_threshold` scales it
        )

    @classmethod
    def from_config(cls, config: QuantizerConfig, feature_dim: int) -> Self:
        """Build from the configuration's fields."""
        return cls(
            feature_dim,
            num_quantizers=config.num_quantizers,
            codebook_size=config.codebook_size or 256,
            bottleneck_dim=config.bottleneck_dim,
            decay=config.decay,
            commitment_weight=config.commitment_weight,
            loss_weight=config.vq_loss_weight,
            initialize_codebook=config.initialize_codebook,
        )

    def quantize(self, tokens_bnc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Quantizer.quantize`; the loss is the sum over the levels times `loss_weight`."""
        residual = self.project_in(tokens_bnc)
        if not self.training:
            codes = self._nearest(residual)
            return self.lookup(codes), codes, residual.new_zeros(())
        levels = []
        for layer in self.rvq.layers:
            levels.append(train_codebook(layer, residual))
            residual = residual - levels[-1][0].detach()
        vectors, codes, losses = (torch.stack(parts, dim=-1) for parts in zip(*levels, strict=True))
        return vectors.sum(dim=-1), codes, losses.sum() * self.loss_weight

    def _nearest(self, bottleneck_bnd: Tensor) -> Tensor:
        """Codes `[B, N, Q]`, level by level, each of what the ones before left."""
        residual = bottleneck_bnd.flatten(0, 1)
        codes = []
        for codebook in self.code_vectors():
            codes.append(nearest_codes(residual, codebook))
            residual = residual - codebook[codes[-1]]
        return torch.stack(codes, dim=-1).view(*bottleneck_bnd.shape[:2], -1)

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """The sum `[B, N, D]` of the levels' vectors."""
        levels = zip(codes_bnq.unbind(dim=-1), self.code_vectors(), strict=True)
        return torch.stack([codebook[codes] for codes, codebook in levels]).sum(dim=0)

    def code_vectors(self) -> list[Tensor]:
        """One codebook `[K, D]` a level."""
        return [layer.codebook for layer in self.rvq.layers]

    @torch.no_grad()
    def initialize(self, tokens_nc: Tensor, tokens_per_batch: int) -> None:
        """PCA for the projections; k-means level by level, each on what the ones before left."""
        self.initialize_projections(tokens_nc)
        if not self._kmeans:
            return
        residual = self.project_in(tokens_nc)
        for layer in self.rvq.layers:
            initialize_codebook(layer, residual, tokens_per_batch)
            residual = residual - layer.codebook[nearest_codes(residual, layer.codebook)]
