"""Vector quantization with one learned codebook (van den Oord et al., 2017, arXiv:1711.00937)."""

from __future__ import annotations

from typing import Self

from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.quantizers.base import ProjectedQuantizer
from squeeze_cli.quantizers.codebooks import initialize_codebook, nearest_codes, train_codebook


class VQWithProjection(ProjectedQuantizer):
    """project_in → nearest of `codebook_size` learned vectors → project_out.

    The codebook follows its vectors by moving averages (`decay`); the commitment loss
    (`commitment_weight`) keeps the vectors near it; gradients pass by the rotation trick
    (Fifty et al., 2024, arXiv:2410.06424).
    """

    has_codebook = True

    def __init__(
        self,
        feature_dim: int,
        *,
        codebook_size: int = 512,
        bottleneck_dim: int = 64,
        decay: float = 0.99,
        commitment_weight: float = 0.25,
        loss_weight: float = 0.1,
        initialize_codebook: bool = True,
    ) -> None:
        super().__init__(feature_dim, bottleneck_dim)
        self.code_sizes = (codebook_size,)
        self.loss_weight = loss_weight
        self._kmeans = initialize_codebook
        self.vq = VectorQuantize(
            dim=bottleneck_dim,
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
            codebook_size=config.codebook_size or 512,
            bottleneck_dim=config.bottleneck_dim,
            decay=config.decay,
            commitment_weight=config.commitment_weight,
            loss_weight=config.vq_loss_weight,
            initialize_codebook=config.initialize_codebook,
        )

    def quantize(self, tokens_bnc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Quantizer.quantize`; the loss is the commitment loss times `loss_weight`."""
        bottleneck = self.project_in(tokens_bnc)
        if self.training:
            vectors, codes, loss = train_codebook(self.vq, bottleneck)
            return vectors, codes.unsqueeze(-1), loss * self.loss_weight
        codes = nearest_codes(bottleneck.flatten(0, 1), self.vq.codebook).view(
            *bottleneck.shape[:2], 1
        )
        return self.lookup(codes), codes, bottleneck.new_zeros(())

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """The codebook's vectors `[B, N, D]`."""
        vectors: Tensor = self.vq.get_output_from_indices(codes_bnq[..., 0])
        return vectors

    def code_vectors(self) -> list[Tensor]:
        """The codebook `[K, D]`."""
        return [self.vq.codebook]

    def initialize(self, tokens_nc: Tensor, tokens_per_batch: int) -> None:
        """PCA for the projections; k-means for the codebook unless that is turned off."""
        self.initialize_projections(tokens_nc)
        if self._kmeans:
            initialize_codebook(self.vq, self.project_in(tokens_nc).detach(), tokens_per_batch)
