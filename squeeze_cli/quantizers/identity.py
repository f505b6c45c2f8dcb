"""No quantization: what the others are measured against."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.errors import SqueezeError
from squeeze_cli.quantizers.base import AffineMap, Quantized, Quantizer


class IdentityQuantizer(Quantizer):
    """Features pass as they are: 32 bits a channel, no codes."""

    @classmethod
    def from_config(cls, config: QuantizerConfig, feature_dim: int) -> Self:
        """Nothing to configure."""
        return cls(feature_dim)

    @property
    def nominal_bits_per_vector(self) -> float:
        """32 bits a channel: float32 features."""
        return 32.0 * self.feature_dim

    def forward(self, tokens_bnc: Tensor) -> Quantized:
        """The tokens themselves, codes `[B, N, 0]`, loss 0."""
        codes = torch.empty(*tokens_bnc.shape[:2], 0, dtype=torch.int64, device=tokens_bnc.device)
        return Quantized(tokens_bnc, codes, tokens_bnc.new_zeros(()))

    def quantize(self, tokens_bnc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens themselves are the code vectors."""
        quantized = self(tokens_bnc)
        return tokens_bnc, quantized.codes, quantized.loss

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """There are no codes to look up; raises SqueezeError."""
        raise SqueezeError(
            "The quantizer 'none' makes no codes: choose vq, fsq, lfq or rvq to decode from codes."
        )

    def output_map(self) -> AffineMap:
        """The identity `[C, C]`."""
        return AffineMap(torch.eye(self.feature_dim), torch.zeros(self.feature_dim))

    def code_vectors(self) -> list[Tensor]:
        """None."""
        return []
