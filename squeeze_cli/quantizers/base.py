"""The contract of all quantizers: from tokens to code vectors, codes and a loss, and back.

    tokens [B, N, C] --project_in--> [B, N, D] --to_code--> [B, N, d] --library--> codes [B, N, Q]
    codes [B, N, Q] --lookup--> [B, N, d] --from_code--> [B, N, D] --project_out--> [B, N, C]

D is the bottleneck and d the dimension of the code vectors: d = D for vq, rvq and pq, whose
codebooks lie in the bottleneck itself, and for dct, whose tokens are frequencies; d is the number of
levels for fsq and the number of bits for lfq. All layers after the codes are linear, so that a head can
fold them into its first convolution (`kernels/folding.py`). The modules of vector-quantize-pytorch
compute the codes.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from squeeze_cli.codec.prior import Prior
from squeeze_cli.codec.prior_fitting import can_have_prior, fit_prior, fitting_steps
from squeeze_cli.config.fields import Size
from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError
from squeeze_cli.kernels.folding import AffineMap

FLOAT32_BITS = 32  # per value of uncompressed features, the reference of compression ratios


@dataclass(frozen=True)
class TrainingStep:
    """Size of a training step: `vectors` over all `processes`, and `vectors_per_image`.

    The vectors decide when a code counts as unused. Several processes synchronize their codebooks.
    """

    vectors: int
    processes: int = 1
    vectors_per_image: int = 1


class Coded(NamedTuple):
    """Quantized tokens: code vectors `[B, N, d]`, codes `[B, N, Q]`, the weighted loss, and the vectors
    `[B, N, d]` that were quantized. Codes of levels that a training step leaves out are -1."""

    vectors: Tensor
    codes: Tensor
    loss: Tensor
    inputs: Tensor


@dataclass(frozen=True)
class Quantized:
    """Features `[B, C, h, w]`, their code vectors `[B, N, d]` and codes `[B, N, Q]` (row by row on the
    `grid` of the codes), the quantizer's loss, and the vectors `[B, N, d]` that were quantized."""

    features: Tensor
    vectors: Tensor
    codes: Tensor
    quantizer_loss: Tensor
    inputs: Tensor
    grid: Size


class Quantizer(nn.Module):
    """Base of all quantizers of tokens with C = `feature_dim` channels.

    Attributes:
        code_sizes: Number of values of each of the Q codes of a vector.
        on_frequencies: Whether the tokens are the coefficients of the cosine transform of the
            features, and not the features at their places.
        stand_for_vectors: Whether each code stands for a vector; else a code is one of many numbers.
    """

    code_sizes: tuple[int, ...] = ()
    on_frequencies = False
    stand_for_vectors = True

    def __init__(self, config: QuantizerConfig, feature_dim: int, step: TrainingStep) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.config = config

    @property
    def nominal_bits_per_vector(self) -> float:
        """Sum of log2 of the code sizes: computed, whereas the codec measures bytes."""
        return sum(math.log2(size) for size in self.code_sizes)

    @property
    def codebook_values(self) -> int:
        """Number of values in learned codebooks, which a decoder needs."""
        return 0

    @property
    def codec_bytes(self) -> int:
        """Size of the trained codec of another library, or 0."""
        return 0

    @property
    def counted_sizes(self) -> tuple[int, ...]:
        """The `code_sizes` for usage, perplexity and a prior of vectors; empty for codes without them."""
        return self.code_sizes if self.stand_for_vectors else ()

    def code_input(self, tokens_bnc: Tensor) -> Tensor:
        """Map tokens `[B, N, C]` to the space of the code vectors, `[B, N, d]`; here the identity."""
        return tokens_bnc

    @abstractmethod
    def run_library(self, inputs_bnd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the library's module on the `code_input` of tokens.

        Returns code vectors `[B, N, d]`, through which gradients pass, codes `[B, N, Q]` int64, and
        the library's loss, a scalar.
        """

    def forward(self, tokens_bnc: Tensor) -> Coded:
        """Quantize tokens `[B, N, C]`.

        In eval mode the code vectors are `lookup(codes)` to the last bit, and the loss is 0.
        """
        inputs = self.code_input(tokens_bnc)
        vectors, codes, loss = self.run_library(inputs)
        if not self.training:
            return Coded(self.lookup(codes), codes, loss.new_zeros(()), inputs)
        return Coded(vectors, codes, loss * self.config.vq_loss_weight, inputs)

    @abstractmethod
    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Return the code vectors `[B, N, d]` of codes `[B, N, Q]`, by the library's decoder."""

    @abstractmethod
    def output_map(self) -> AffineMap:
        """Return the linear map from code vectors to features, differentiable in its parameters."""

    def code_vectors(self) -> list[Tensor]:
        """Return the vectors `[K_q, d]` of the values of each of the `counted_sizes`; here none."""
        return []

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters before the codes, whose learning rate has `--encoder-lr-factor`.

        They start at the principal axes, where neighbouring vectors are similar and their codes cost
        few bits. Training trades that for mean IoU.
        """
        return []

    def initialize(self, tokens_nc: Tensor) -> None:
        """Initialize once from pooled training features `[n, C]`, normalized and shuffled."""

    def rate_model(self) -> nn.Module:
        """Return a model of the codes' bits, for quantizers with the option `rate_weight`.

        It takes `Quantized` and the `code_vectors`, and returns the bits per vector that the network is
        trained for, and the loss of the model itself, or None.
        """
        raise NotImplementedError

    def fit_prior(
        self, codes_nhwq: NDArray[np.int32], reporter: Reporter, *, seed: int, prefixes: bool
    ) -> Prior | None:
        """Fit a prior to the codes of training images; None if they have too many values.

        `fit_prior` of `codec/prior_fitting.py` explains `seed` and `prefixes`.
        """
        if not can_have_prior(sizes := self.counted_sizes):
            if sizes:
                reporter.say(f"Codes of {max(sizes)} values are packed: too many for a prior.")
            return None
        with reporter.track("Prior", fitting_steps(codes_nhwq.shape)) as advance:
            return fit_prior(
                codes_nhwq, self.code_vectors(), seed=seed, prefixes=prefixes, advance=advance
            )


class IdentityQuantizer(Quantizer):
    """No quantization, as reference for all quantizers: the code vectors are the tokens."""

    @property
    def nominal_bits_per_vector(self) -> float:
        """The bits of float32 features."""
        return float(FLOAT32_BITS * self.feature_dim)

    def forward(self, tokens_bnc: Tensor) -> Coded:
        """Return the tokens, with codes `[B, N, 0]` and loss 0."""
        codes = tokens_bnc.new_empty(*tokens_bnc.shape[:2], 0, dtype=torch.int64)
        return Coded(tokens_bnc, codes, tokens_bnc.new_zeros(()), tokens_bnc)

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Raise SqueezeError: there are no codes to look up."""
        raise SqueezeError(
            "The quantizer 'none' makes no codes: choose another one to decode from codes."
        )

    def output_map(self) -> AffineMap:
        """Return the identity `[C, C]`."""
        return AffineMap(torch.eye(self.feature_dim), torch.zeros(self.feature_dim))
