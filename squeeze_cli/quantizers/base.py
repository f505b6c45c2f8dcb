"""What every quantizer is: tokens in, quantized features, codes and a loss out; codes back to features.

    tokens [B, N, C] --project_in--> [B, N, D] --to_code--> [B, N, d] --library--> codes [B, N, Q]
    codes [B, N, Q] --code_vectors--> [B, N, d] --from_code--> [B, N, D] --project_out--> [B, N, C]

D is the bottleneck, d the dimension in which the codes live: d = D for vq and rvq, whose codebooks
lie in the bottleneck itself; the number of levels for fsq and of bits for lfq. Everything right of
the codes is linear, so a head can fold it into its first convolution (`heads/folding.py`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from squeeze_cli.quantizers.whitening import Whitening

# For a covariance: 17,000 vectors of 2,048 channels, all that there are of the narrower backbones'.
PCA_MULTIPLICATIONS = 7e10


@dataclass(frozen=True)
class Quantized:
    """What a quantizer gives for tokens `[B, N, C]`.

    Attributes:
        features: `[B, N, C]`, the quantized features.
        codes: `[B, N, Q]` int64, Q codes a vector (Q = 0 where nothing is quantized).
        loss: scalar, already weighted as the configuration says; 0 in eval mode.
    """

    features: Tensor
    codes: Tensor
    loss: Tensor


@dataclass(frozen=True)
class AffineMap:
    """`features = weight @ code_vector + bias`: weight `[C, d]`, bias `[C]`."""

    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """Map `[..., d]` to `[..., C]`."""
        return nn.functional.linear(vectors, self.weight, self.bias)


class Quantizer(nn.Module):
    """Base of all quantizers; a subclass says how code vectors `[B, N, d]` become codes and back."""

    code_sizes: tuple[int, ...] = ()
    # Whether the code vectors are learned, so that a decoder must be given them.
    has_codebook = False

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim

    @property
    def nominal_bits_per_vector(self) -> float:
        """log2 of the number of code combinations: computed, not measured; see the codec for bytes."""
        return sum(math.log2(size) for size in self.code_sizes)

    @abstractmethod
    def quantize(self, tokens_bnc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Code vectors `[B, N, d]` (gradients pass straight through), codes `[B, N, Q]`, loss."""

    @abstractmethod
    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """The code vectors `[B, N, d]` of the codes."""

    @abstractmethod
    def output_map(self) -> AffineMap:
        """The one linear map from code vectors to features; differentiable in its parameters."""

    @abstractmethod
    def code_vectors(self) -> list[Tensor]:
        """For each of the Q codes, the vectors `[K_q, d]` that its values stand for."""

    def encoder_parameters(self) -> list[nn.Parameter]:
        """What stands before the codes, and learns at `--encoder-lr-factor` times the rate.

        Principal axes are where it starts: neighbouring vectors look alike there, and their codes
        cost few bits. Training trades that for mean IoU.
        """
        return []

    def initialize(self, tokens_nc: Tensor, tokens_per_batch: int) -> None:
        """Start from pooled training features `[n, C]` instead of noise; before fit, once.

        Args:
            tokens_nc: training features, normalized, shuffled.
            tokens_per_batch: vectors a training step sees, which sets the scale of code usage.
        """

    def forward(self, tokens_bnc: Tensor) -> Quantized:
        """Quantize tokens `[B, N, C]`. In eval mode `features` is `decode(codes)` to the last bit."""
        vectors, codes, loss = self.quantize(tokens_bnc)
        return Quantized(self.output_map()(vectors), codes, loss)

    def decode(self, codes_bnq: Tensor) -> Tensor:
        """Features `[B, N, C]` from codes `[B, N, Q]`."""
        return self.output_map()(self.lookup(codes_bnq))


class ProjectedQuantizer(Quantizer):
    """A quantizer behind a linear bottleneck: `project_in` C → D, `project_out` D → C."""

    def __init__(self, feature_dim: int, bottleneck_dim: int) -> None:
        super().__init__(feature_dim)
        self.bottleneck_dim = bottleneck_dim
        self.project_in = nn.Linear(feature_dim, bottleneck_dim)
        self.project_out = nn.Linear(bottleneck_dim, feature_dim)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """`project_in`."""
        return list(self.project_in.parameters())

    def output_map(self) -> AffineMap:
        """`project_out` as it is: the code vectors lie in the bottleneck."""
        return AffineMap(self.project_out.weight, self.project_out.bias)

    @torch.no_grad()
    def initialize_projections(self, tokens_nc: Tensor) -> None:
        """Set `project_in` to the principal axes of the tokens and `project_out` back again.

        The bottleneck then keeps the most variance that a linear one can (PCA), scaled by one
        factor so that a component has unit variance on average: the codebook's initial scale and
        the commitment loss mean the same for every backbone. Axes past the rank of the tokens,
        where C is below D, stay as they were.
        """
        mean = tokens_nc.mean(dim=0)
        axes_dc, variances_d = principal_axes(tokens_nc, self.bottleneck_dim)
        kept = len(axes_dc)
        scale = variances_d.mean().clamp_min(1e-12).sqrt()
        self.project_in.weight[:kept] = axes_dc / scale
        self.project_in.bias[:kept] = -(axes_dc @ mean) / scale
        self.project_out.weight.zero_()
        self.project_out.weight[:, :kept] = axes_dc.T * scale
        self.project_out.bias.copy_(mean)


class NormalizedCodeQuantizer(ProjectedQuantizer):
    """A bottleneck, then `d` whitened code dimensions, for implicit codebooks.

    FSQ and LFQ cut fixed intervals, so they use their codes evenly only if what arrives is centred,
    scaled and uncorrelated. `Whitening` sees to that while `project_in` moves, and is an affine
    map in eval mode.
    """

    def __init__(self, feature_dim: int, bottleneck_dim: int, code_dim: int) -> None:
        super().__init__(feature_dim, bottleneck_dim)
        self.code_dim = code_dim
        self.to_code = nn.Linear(bottleneck_dim, code_dim)
        self.normalize = Whitening(code_dim)
        self.from_code = nn.Linear(code_dim, bottleneck_dim)

    def code_input(self, tokens_bnc: Tensor) -> Tensor:
        """Normalized code dimensions `[B, N, d]` of the tokens."""
        raw: Tensor = self.to_code(self.project_in(tokens_bnc))
        normalized: Tensor = self.normalize(raw.flatten(0, 1))
        return normalized.view_as(raw)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """`project_in` and `to_code`."""
        return [*super().encoder_parameters(), *self.to_code.parameters()]

    def output_map(self) -> AffineMap:
        """`project_out ∘ from_code` as one map."""
        weight = self.project_out.weight @ self.from_code.weight
        bias = self.project_out.weight @ self.from_code.bias + self.project_out.bias
        return AffineMap(weight, bias)

    @torch.no_grad()
    def initialize(self, tokens_nc: Tensor, tokens_per_batch: int) -> None:
        """PCA in, whitened leading axes rotated together as code dimensions, least squares out.

        The rotation gives each code dimension an equal share of the variance: without it the
        first axis holds most of what there is to say, and the last ones spend bits on noise.
        """
        self.initialize_projections(tokens_nc)
        bottleneck = self.project_in(tokens_nc)
        axes, variances = principal_axes(bottleneck, self.code_dim)
        kept = len(axes)
        whitening = axes / variances.clamp_min(1e-12).sqrt()[:, None]
        rotation = torch.linalg.qr(torch.randn(kept, kept)).Q.to(whitening)
        self.to_code.weight[:kept] = rotation @ whitening
        self.to_code.bias[:kept] = -(self.to_code.weight[:kept] @ bottleneck.mean(dim=0))
        raw = self.to_code(bottleneck)
        self.normalize.fit(raw)
        training = self.training
        self.eval()
        vectors = self.lookup(self.quantize(tokens_nc[None])[1])[0]
        self.train(training)
        self._fit_output(vectors, bottleneck)

    def _fit_output(self, vectors_nd: Tensor, bottleneck_nd: Tensor) -> None:
        """Set `from_code` to the least-squares map from code vectors back to the bottleneck."""
        # On the CPU: not every device has float64.
        design = torch.cat([vectors_nd, torch.ones_like(vectors_nd[:, :1])], dim=1).cpu().double()
        ridge = 1e-6 * len(design) * torch.eye(design.shape[1]).double()
        target = design.T @ bottleneck_nd.cpu().double()
        solution = torch.linalg.solve(design.T @ design + ridge, target)
        self.from_code.weight.copy_(solution[:-1].T)
        self.from_code.bias.copy_(solution[-1])


def principal_axes(rows_nc: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The leading principal axes `[k, C]` of rows `[n, C]` and their variances `[k]`.

    Of many wide rows, which come shuffled, only the first are looked at: as many as
    `PCA_MULTIPLICATIONS` allows. k is the least of `count`, C and their number - 1 (at least 1).
    Each axis points where its largest entry is positive, so that the outcome does not depend on the
    solver's choice of sign.
    """
    used = rows_nc[: max(2, int(PCA_MULTIPLICATIONS / rows_nc.shape[1] ** 2))]
    centred_nc = used - used.mean(dim=0)
    kept = max(1, min(count, centred_nc.shape[1], len(centred_nc) - 1))
    covariance = centred_nc.T @ centred_nc / max(1, len(centred_nc) - 1)
    covariance = covariance.cpu()
    if kept > len(covariance) // 8:  # else only axes that stand far above float32's rounding
        covariance = covariance.double()
    values, vectors = torch.linalg.eigh(covariance)
    axes = vectors[:, -kept:].flip(1).T
    leading = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    axes = axes * torch.where(leading < 0, -1.0, 1.0)
    return axes.to(centred_nc), values[-kept:].flip(0).clamp_min(0).to(centred_nc)
