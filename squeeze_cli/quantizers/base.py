"""The contract of all quantizers: tokens to quantized features, codes and a loss; codes to features.

    tokens [B, N, C] --project_in--> [B, N, D] --to_code--> [B, N, d] --library--> codes [B, N, Q]
    codes [B, N, Q] --lookup--> [B, N, d] --from_code--> [B, N, D] --project_out--> [B, N, C]

D is the bottleneck and d the dimension of the code vectors: d = D for vq and rvq, whose codebooks
lie in the bottleneck itself; d is the number of levels for fsq and the number of bits for lfq. All
that follows the codes is linear, so that a head can fold it into its first convolution
(`kernels/folding.py`). The modules of vector-quantize-pytorch do the quantizing.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.kernels.folding import AffineMap


@dataclass(frozen=True)
class Quantized:
    """The result for tokens `[B, N, C]`.

    Attributes:
        features: `[B, N, C]`, the quantized features.
        codes: `[B, N, Q]` int64, Q codes per vector (Q = 0 where nothing is quantized).
        loss: scalar, weighted as the configuration says; 0 in eval mode.
    """

    features: Tensor
    codes: Tensor
    loss: Tensor


@dataclass(frozen=True)
class StepSize:
    """The size of a training step, which sets the scale at which a code counts as unused.

    Attributes:
        vectors: vectors per training step, of all processes together.
        processes: processes that train together; with more than one, codebooks are synchronized.
    """

    vectors: int
    processes: int = 1


class Quantizer(nn.Module):
    """Base of all quantizers; a subclass runs a module of the library.

    Args:
        config: the options, with defaults resolved.
        feature_dim: C, channels of the tokens.
        step: size of a training step.

    Attributes:
        code_sizes: the number of values of each of the Q codes of a vector.
        has_codebook: whether the code vectors are learned, so that a decoder must be given them.
    """

    code_sizes: tuple[int, ...] = ()
    has_codebook = False

    def __init__(self, config: QuantizerConfig, feature_dim: int, step: StepSize) -> None:
        super().__init__()
        del step
        self.feature_dim = feature_dim
        self.loss_weight = config.vq_loss_weight

    @property
    def nominal_bits_per_vector(self) -> float:
        """Sum of log2 of the code sizes: computed, not measured; the codec measures bytes."""
        return sum(math.log2(size) for size in self.code_sizes)

    @abstractmethod
    def run_library(self, tokens_bnc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the library's module on tokens `[B, N, C]`.

        Returns:
            Code vectors `[B, N, d]`, through which gradients pass; codes `[B, N, Q]` int64; the
            library's loss, a scalar, not weighted.
        """

    def quantize(self, tokens_bnc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return code vectors `[B, N, d]`, codes `[B, N, Q]` and the weighted loss of tokens.

        In eval mode the code vectors are `lookup(codes)` to the last bit, and the loss is 0.
        """
        vectors, codes, loss = self.run_library(tokens_bnc)
        if not self.training:
            return self.lookup(codes), codes, loss.new_zeros(())
        return vectors, codes, loss * self.loss_weight

    @abstractmethod
    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Return the code vectors `[B, N, d]` of codes `[B, N, Q]`, by the library's decoder."""

    @abstractmethod
    def output_map(self) -> AffineMap:
        """Return the linear map from code vectors to features, differentiable in its parameters."""

    @abstractmethod
    def code_vectors(self) -> list[Tensor]:
        """Return, for each of the Q codes, the vectors `[K_q, d]` that its values stand for."""

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters before the codes, which learn at `--encoder-lr-factor` of the rate.

        They start at the principal axes, where neighbouring vectors are similar and their codes cost
        few bits. Training trades that for mean IoU.
        """
        return []

    def initialize(self, tokens_nc: Tensor) -> None:
        """Start from pooled training features `[n, C]`, normalized and shuffled; once, before fit."""

    def forward(self, tokens_bnc: Tensor) -> Quantized:
        """Quantize tokens `[B, N, C]`. In eval mode, `features` is `decode(codes)` to the last bit."""
        vectors, codes, loss = self.quantize(tokens_bnc)
        return Quantized(self.output_map()(vectors), codes, loss)

    def decode(self, codes_bnq: Tensor) -> Tensor:
        """Return the features `[B, N, C]` of codes `[B, N, Q]`."""
        return self.output_map()(self.lookup(codes_bnq))
