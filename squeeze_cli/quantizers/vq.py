"""Learned codebooks: vector quantization and residual vector quantization.

van den Oord et al., 2017, arXiv:1711.00937; Zeghidour et al., SoundStream, 2021, arXiv:2107.03312.
"""

from __future__ import annotations

from typing import Self, TypedDict

import torch
from torch import Tensor
from vector_quantize_pytorch import ResidualVQ, VectorQuantize

from squeeze_cli.config.defaults import BOTTLENECK_DIM, CODEBOOK_SIZE, RESIDUAL_CODEBOOK_SIZE
from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.quantizers.base import StepSize
from squeeze_cli.quantizers.projection import ProjectedQuantizer

KMEANS_ITERATIONS = 20
# Vectors that k-means looks at, per code.
KMEANS_VECTORS_PER_CODE = 128
# A code is dead when the moving average of its uses per step falls below this share of an even
# use. The library then replaces it by a vector of the batch.
DEAD_SHARE = 0.05


class _CodebookOptions(TypedDict):
    """The library's options that both quantizers set alike."""

    decay: float
    commitment_weight: float
    kmeans_init: bool
    kmeans_iters: int
    threshold_ema_dead_code: float
    rotation_trick: bool
    sync_codebook: bool


def _codebook_options(
    step: StepSize, codebook_size: int, decay: float, commitment_weight: float, kmeans: bool
) -> _CodebookOptions:
    return {
        "decay": decay,
        "commitment_weight": commitment_weight,
        "kmeans_init": kmeans,
        "kmeans_iters": KMEANS_ITERATIONS,
        "threshold_ema_dead_code": DEAD_SHARE * step.vectors / codebook_size,
        "rotation_trick": True,
        # The library's own None asks for a process group before Lightning has made one.
        "sync_codebook": step.processes > 1,
    }


class _CodebookQuantizer(ProjectedQuantizer):
    """The parts that vq and rvq share: `library` is the module of vector-quantize-pytorch."""

    has_codebook = True
    library: VectorQuantize | ResidualVQ

    def __init__(
        self, feature_dim: int, bottleneck_dim: int, loss_weight: float, initialize_codebook: bool
    ) -> None:
        super().__init__(feature_dim, bottleneck_dim)
        self.loss_weight = loss_weight
        self.initialize_codebook = initialize_codebook

    @torch.no_grad()
    def initialize(self, tokens_nc: Tensor) -> None:
        """Set the projections by PCA, and the codebooks by the library's k-means on the tokens.

        The library runs k-means in its first forward pass, in eval mode too. One pass over pooled
        training vectors before fit keeps it from a validation batch, or from a batch with fewer
        vectors than codes.
        """
        self.initialize_projections(tokens_nc)
        if self.initialize_codebook:
            pool = tokens_nc[: KMEANS_VECTORS_PER_CODE * self.code_sizes[0]]
            training = self.training
            self.train()
            self.library(self.project_in(pool)[None])
            self.train(training)


class VQWithProjection(_CodebookQuantizer):
    """project_in → nearest of `codebook_size` learned vectors → project_out.

    The codebook follows its vectors by moving averages (`decay`); the commitment loss
    (`commitment_weight`) keeps the vectors near it; gradients pass by the rotation trick
    (Fifty et al., 2024, arXiv:2410.06424).
    """

    def __init__(
        self,
        feature_dim: int,
        step: StepSize,
        *,
        codebook_size: int = CODEBOOK_SIZE,
        bottleneck_dim: int = BOTTLENECK_DIM,
        decay: float = 0.99,
        commitment_weight: float = 0.25,
        loss_weight: float = 0.1,
        initialize_codebook: bool = True,
    ) -> None:
        super().__init__(feature_dim, bottleneck_dim, loss_weight, initialize_codebook)
        self.code_sizes = (codebook_size,)
        self.vq = VectorQuantize(
            dim=bottleneck_dim,
            codebook_size=codebook_size,
            **_codebook_options(step, codebook_size, decay, commitment_weight, initialize_codebook),
        )

    @classmethod
    def from_config(cls, config: QuantizerConfig, feature_dim: int, step: StepSize) -> Self:
        """Build the quantizer from the configuration's fields."""
        return cls(
            feature_dim,
            step,
            codebook_size=config.codebook_size or CODEBOOK_SIZE,
            bottleneck_dim=config.bottleneck_dim,
            decay=config.decay,
            commitment_weight=config.commitment_weight,
            loss_weight=config.vq_loss_weight,
            initialize_codebook=config.initialize_codebook,
        )

    @property
    def library(self) -> VectorQuantize:
        """The library's module."""
        return self.vq

    def quantize(self, tokens_bnc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize tokens; see `Quantizer.quantize`. The loss is the weighted commitment loss."""
        vectors, indices, loss = self.vq(self.project_in(tokens_bnc))
        codes = indices.unsqueeze(-1)
        if not self.training:
            vectors = self.lookup(codes)
        return vectors, codes, loss.sum() * self.loss_weight

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Return the codebook's vectors `[B, N, D]`."""
        vectors: Tensor = self.vq.get_output_from_indices(codes_bnq[..., 0])
        return vectors

    def code_vectors(self) -> list[Tensor]:
        """Return the codebook `[K, D]`."""
        return [self.vq.codebook]


class ResidualVQWithProjection(_CodebookQuantizer):
    """project_in → `num_quantizers` codebooks, each on what the previous ones left → project_out.

    Code q = 0 is the coarsest. The commitment losses of the levels are summed.
    """

    def __init__(
        self,
        feature_dim: int,
        step: StepSize,
        *,
        num_quantizers: int = 4,
        codebook_size: int = RESIDUAL_CODEBOOK_SIZE,
        bottleneck_dim: int = BOTTLENECK_DIM,
        decay: float = 0.99,
        commitment_weight: float = 0.25,
        loss_weight: float = 0.1,
        initialize_codebook: bool = True,
    ) -> None:
        super().__init__(feature_dim, bottleneck_dim, loss_weight, initialize_codebook)
        self.code_sizes = (codebook_size,) * num_quantizers
        self.rvq = ResidualVQ(
            dim=bottleneck_dim,
            num_quantizers=num_quantizers,
            codebook_size=codebook_size,
            **_codebook_options(step, codebook_size, decay, commitment_weight, initialize_codebook),
        )

    @classmethod
    def from_config(cls, config: QuantizerConfig, feature_dim: int, step: StepSize) -> Self:
        """Build the quantizer from the configuration's fields."""
        return cls(
            feature_dim,
            step,
            num_quantizers=config.num_quantizers,
            codebook_size=config.codebook_size or RESIDUAL_CODEBOOK_SIZE,
            bottleneck_dim=config.bottleneck_dim,
            decay=config.decay,
            commitment_weight=config.commitment_weight,
            loss_weight=config.vq_loss_weight,
            initialize_codebook=config.initialize_codebook,
        )

    @property
    def library(self) -> ResidualVQ:
        """The library's module."""
        return self.rvq

    def quantize(self, tokens_bnc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize tokens; see `Quantizer.quantize`. The loss is summed over the levels."""
        vectors, codes, losses = self.rvq(self.project_in(tokens_bnc))
        if not self.training:
            vectors = self.lookup(codes)
        return vectors, codes, losses.sum() * self.loss_weight

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Return the sum `[B, N, D]` of the levels' vectors."""
        vectors: Tensor = self.rvq.get_output_from_indices(codes_bnq)
        return vectors

    def code_vectors(self) -> list[Tensor]:
        """Return one codebook `[K, D]` per level."""
        return list(self.rvq.codebooks)
