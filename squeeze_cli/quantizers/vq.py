"""Learned codebooks: vector quantization, residual and product quantization.

van den Oord et al., 2017, arXiv:1711.00937; Zeghidour et al., SoundStream, 2021, arXiv:2107.03312;
Jégou et al., 2011, doi:10.1109/TPAMI.2010.57.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from vector_quantize_pytorch import GroupedResidualVQ, ResidualVQ, VectorQuantize

from squeeze_cli.config.defaults import CODEBOOK_SIZE, SMALL_CODEBOOK_SIZE
from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.quantizers.base import TrainingStep
from squeeze_cli.quantizers.projection import ProjectedQuantizer

KMEANS_ITERATIONS = 20
# Vectors per code in the sample for k-means.
KMEANS_VECTORS_PER_CODE = 128
# A code is dead when the moving average of its uses per step falls below this share of an even
# use. The library then replaces it by a vector of the batch.
DEAD_SHARE = 0.05


def _options(
    config: QuantizerConfig, size: int, step: TrainingStep, groups: int = 1
) -> dict[str, object]:
    """Return the arguments of the library's modules for codebooks of `size` vectors."""
    return {
        "dim": config.bottleneck_dim,
        "codebook_size": size,
        "decay": config.decay,
        "commitment_weight": config.commitment_weight,
        "kmeans_init": config.initialize_codebook,
        "kmeans_iters": KMEANS_ITERATIONS,
        "threshold_ema_dead_code": DEAD_SHARE * step.vectors / size,
        "rotation_trick": config.bottleneck_dim > groups,  # scalars do not rotate
        # The library's default of None looks for a process group before Lightning has made one.
        "sync_codebook": step.processes > 1,
    }


class CodebookQuantizer(ProjectedQuantizer):
    """Base of the quantizers with learned codebooks."""

    @property
    def codebook_values(self) -> int:
        """Number of values in the codebooks, whose vectors lie in the bottleneck."""
        return sum(self.code_sizes) * self.bottleneck_dim

    @torch.no_grad()
    def initialize(self, tokens_nc: Tensor) -> None:
        """Set the projections by PCA, and the codebooks by the library's k-means on the tokens.

        The library runs k-means in its first forward pass, in eval mode too. This pass over pooled
        training vectors prevents k-means on a validation batch, or on fewer vectors than codes.
        """
        super().initialize(tokens_nc)
        if self.config.initialize_codebook:
            training = self.training
            self.train()
            size = self.code_sizes[0]
            sample = tokens_nc[: KMEANS_VECTORS_PER_CODE * size]
            if len(sample) < size:  # the library would warn that it uses some twice
                sample = sample.repeat(-(-size // len(sample)), 1)
            self.run_library(self.code_input(sample[None]))
            self.train(training)


class VQWithProjection(CodebookQuantizer):
    """project_in → nearest of `codebook_size` learned vectors → project_out.

    The codebook follows its vectors by moving averages (`decay`); the commitment loss
    (`commitment_weight`) keeps the vectors near it; gradients pass by the rotation trick
    (Fifty et al., 2024, arXiv:2410.06424).
    """

    def __init__(self, config: QuantizerConfig, feature_dim: int, step: TrainingStep) -> None:
        super().__init__(config, feature_dim, step)
        size = config.codebook_size or CODEBOOK_SIZE
        self.code_sizes = (size,)
        self.vq = VectorQuantize(**_options(config, size, step))

    def run_library(self, inputs_bnd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run VectorQuantize. Its loss is the commitment loss."""
        vectors, indices, loss = self.vq(inputs_bnd)
        return vectors, indices.unsqueeze(-1), loss.sum()

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Return the codebook's vectors `[B, N, D]`."""
        vectors: Tensor = self.vq.get_output_from_indices(codes_bnq[..., 0])
        return vectors


class ResidualVQWithProjection(CodebookQuantizer):
    """project_in → `num_quantizers` codebooks, each for the residual of the previous → project_out.

    Code q = 0 is the coarsest. The commitment losses of the levels are summed. With
    `quantizer_dropout` each training step leaves out a random number of last levels, so that the first
    levels can be used alone too (SoundStream).
    """

    def __init__(self, config: QuantizerConfig, feature_dim: int, step: TrainingStep) -> None:
        super().__init__(config, feature_dim, step)
        size = config.codebook_size or SMALL_CODEBOOK_SIZE
        self.code_sizes = (size,) * config.num_quantizers
        self.rvq = ResidualVQ(
            num_quantizers=config.num_quantizers, quantize_dropout=config.quantizer_dropout,
            **_options(config, size, step),
        )  # fmt: skip

    def keep_levels(self, levels: int) -> None:
        """Return only the codes of the first levels from now on, in eval mode."""
        self.code_sizes = self.code_sizes[:levels]

    def initialize(self, tokens_nc: Tensor) -> None:
        """Set projections and all codebooks, with quantizer dropout switched off."""
        dropout, self.rvq.quantize_dropout = self.rvq.quantize_dropout, False
        super().initialize(tokens_nc)
        self.rvq.quantize_dropout = dropout

    def run_library(self, inputs_bnd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run ResidualVQ. Its losses are the commitment losses of the levels."""
        vectors, codes, losses = self.rvq(inputs_bnd)
        return vectors, codes[..., : len(self.code_sizes)], losses.sum()

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Return the sum `[B, N, D]` of the vectors of all given levels."""
        missing = self.rvq.num_quantizers - codes_bnq.shape[2]
        vectors: Tensor = self.rvq.get_output_from_indices(F.pad(codes_bnq, (0, missing), value=-1))
        return vectors

    def code_vectors(self) -> list[Tensor]:
        """Return one codebook `[K, D]` per level."""
        return list(self.rvq.codebooks[: len(self.code_sizes)])


class ProductVQWithProjection(CodebookQuantizer):
    """project_in → `num_groups` parts, each quantized by a codebook of its own → project_out.

    The commitment loss is the mean over the groups. The library's multi-head VectorQuantize is
    equivalent, but its k-means refuses several processes.
    """

    def __init__(self, config: QuantizerConfig, feature_dim: int, step: TrainingStep) -> None:
        super().__init__(config, feature_dim, step)
        size = config.codebook_size or SMALL_CODEBOOK_SIZE
        self.code_sizes = (size,) * config.num_groups
        groups = config.num_groups
        self.pq = GroupedResidualVQ(
            groups=groups, num_quantizers=1, **_options(config, size, step, groups)
        )

    def run_library(self, inputs_bnd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run GroupedResidualVQ with one level. Its losses are the commitment losses of the groups."""
        vectors, codes_gbn1, losses = self.pq(inputs_bnd)
        return vectors, codes_gbn1[..., 0].movedim(0, -1), losses.mean()

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Return the concatenated vectors of the groups, `[B, N, D]`."""
        vectors: Tensor = self.pq.get_output_from_indices(codes_bnq.movedim(-1, 0)[..., None])
        return vectors

    @property
    def codebook_values(self) -> int:
        """Number of values in the codebooks, whose vectors are parts of the bottleneck."""
        return self.code_sizes[0] * self.bottleneck_dim

    def code_vectors(self) -> list[Tensor]:
        """Return one codebook `[K, D]` per group, zero outside of the group's dimensions."""
        books_gkd = self.pq.codebooks[:, 0]
        width, end = books_gkd.shape[2], self.bottleneck_dim
        return [
            F.pad(book, (begin, end - begin - width))
            for begin, book in zip(range(0, end, width), books_gkd, strict=True)
        ]
