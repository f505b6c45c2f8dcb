"""Finite scalar quantization: a few dimensions, each rounded to its levels (arXiv:2309.15505)."""

from __future__ import annotations

from math import prod
from typing import Self

import torch
from torch import Tensor
from vector_quantize_pytorch import FSQ

from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.quantizers.base import NormalizedCodeQuantizer

# tanh of a normal variable of this deviation is nearly uniform on (-1, 1): a logistic variable
# through tanh would be exactly so, and sqrt(pi^2 / 12) is its deviation.
UNIFORM_DEVIATION = 0.907


class FSQWithProjection(NormalizedCodeQuantizer):
    """project_in → `len(levels)` bounded dimensions, rounded → project_out; one code of prod(levels).

    The codebook is implicit: nothing to learn, nothing to collapse, no loss of its own.
    """

    def __init__(
        self, feature_dim: int, *, levels: tuple[int, ...] = (8, 5, 5, 5), bottleneck_dim: int = 64
    ) -> None:
        super().__init__(feature_dim, bottleneck_dim, code_dim=len(levels))
        self.code_sizes = (prod(levels),)
        self.fsq = FSQ(levels=list(levels))

    @classmethod
    def from_config(cls, config: QuantizerConfig, feature_dim: int) -> Self:
        """Build from the configuration's fields."""
        return cls(feature_dim, levels=config.levels, bottleneck_dim=config.bottleneck_dim)

    def quantize(self, tokens_bnc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Quantizer.quantize`; the loss is 0."""
        vectors, indices = self.fsq(self.code_input(tokens_bnc) * UNIFORM_DEVIATION)
        codes = indices.long().unsqueeze(-1)
        if not self.training:
            vectors = self.lookup(codes)
        return vectors, codes, vectors.new_zeros(())

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Grid points `[B, N, d]`, each entry within [-1, 1]."""
        vectors: Tensor = self.fsq.indices_to_codes(codes_bnq[..., 0])
        return vectors

    def code_vectors(self) -> list[Tensor]:
        """The whole grid `[prod(levels), d]`."""
        indices = torch.arange(self.code_sizes[0], device=self.to_code.weight.device)
        return [self.fsq.indices_to_codes(indices[None])[0]]
