"""No quantization: the reference for all quantizers."""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze_cli.errors import SqueezeError
from squeeze_cli.kernels.folding import AffineMap
from squeeze_cli.quantizers.base import Quantized, Quantizer


class IdentityQuantizer(Quantizer):
    """A quantizer that passes features as they are: 32 bits per channel, no codes."""

    @property
    def nominal_bits_per_vector(self) -> float:
        """32 bits per channel: float32 features."""
        return 32.0 * self.feature_dim

    def run_library(self, tokens_bnc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens as code vectors, codes `[B, N, 0]` and loss 0."""
        codes = torch.empty(*tokens_bnc.shape[:2], 0, dtype=torch.int64, device=tokens_bnc.device)
        return tokens_bnc, codes, tokens_bnc.new_zeros(())

    def quantize(self, tokens_bnc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `run_library` returns, in eval mode too."""
        return self.run_library(tokens_bnc)

    def forward(self, tokens_bnc: Tensor) -> Quantized:
        """Return the tokens as they are, without a product with the identity."""
        return Quantized(*self.quantize(tokens_bnc))

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Raise SqueezeError: there are no codes to look up."""
        raise SqueezeError(
            "The quantizer 'none' makes no codes: choose vq, fsq, lfq or rvq to decode from codes."
        )

    def output_map(self) -> AffineMap:
        """Return the identity `[C, C]`."""
        return AffineMap(torch.eye(self.feature_dim), torch.zeros(self.feature_dim))

    def code_vectors(self) -> list[Tensor]:
        """Return an empty list: there are no codes."""
        return []
