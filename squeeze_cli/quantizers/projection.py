"""Linear bottlenecks that start from principal axes, and an estimate of the bits of their codes."""

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.kernels.folding import AffineMap
from squeeze_cli.quantizers.base import Quantized, Quantizer, StepSize

# The covariance of `principal_axes` takes at most this many multiplications: 17,000 vectors of 2,048
# channels, or all pooled vectors of narrower backbones.
PCA_MULTIPLICATIONS = 7e10
HIDDEN_CHANNELS = 128  # of `RateModel`, as the following
DROPOUT = 0.2
# Side of the window around a vector; its code is predicted from the vectors above and to the left.
CONTEXT = 5
# Width of the soft assignment, as a share of the mean squared distance to the nearest code vector.
TEMPERATURE = 0.25


class ProjectedQuantizer(Quantizer):
    """A quantizer behind a linear bottleneck: `project_in` C → D and `project_out` D → C."""

    def __init__(self, config: QuantizerConfig, feature_dim: int, step: StepSize) -> None:
        super().__init__(config, feature_dim, step)
        self.bottleneck_dim = config.bottleneck_dim
        self.project_in = nn.Linear(feature_dim, self.bottleneck_dim)
        self.project_out = nn.Linear(self.bottleneck_dim, feature_dim)

    def code_input(self, tokens_bnc: Tensor) -> Tensor:
        """Return the bottleneck's vectors `[B, N, D]`."""
        projected: Tensor = self.project_in(tokens_bnc)
        return projected

    def code_vectors(self) -> list[Tensor]:
        """Look up the vectors `[K, d]` of all values of the only code, if it stands for vectors."""
        device = self.project_in.weight.device
        codes = [torch.arange(size, device=device)[None, :, None] for size in self.counted_sizes]
        return [self.lookup(each)[0] for each in codes]

    def rate_model(self) -> nn.Module:
        """Return a model that predicts codes from neighbouring code vectors."""
        return RateModel(self.code_sizes, self.code_vectors()[0].shape[1])

    def output_map(self) -> AffineMap:
        """Return `project_out`: the code vectors lie in the bottleneck."""
        return AffineMap(self.project_out.weight, self.project_out.bias)

    def initialize(self, tokens_nc: Tensor) -> None:
        """Set the projections to the principal axes of tokens `[n, C]`."""
        start_at_principal_axes(self.project_in, self.project_out, tokens_nc)


@torch.no_grad()
def start_at_principal_axes(
    project_in: nn.Linear, project_out: nn.Linear, tokens_nc: Tensor
) -> None:
    """Set `project_in`, with or without bias, to the principal axes of tokens `[n, C]`, and
    `project_out` to their inverse.

    The bottleneck between them then preserves as much variance as a linear one can. It is scaled so
    that its components have unit variance on average: the codebook's initial scale and the commitment
    loss mean the same for every backbone.
    """
    mean = tokens_nc.mean(dim=0)
    axes_dc, variances_d = principal_axes(tokens_nc, project_in.out_features)
    kept = len(axes_dc)
    scale = variances_d.mean().clamp_min(1e-12).sqrt()
    coded_mean = axes_dc @ mean
    project_in.weight[:kept] = axes_dc / scale
    project_out.weight.zero_()
    project_out.weight[:, :kept] = axes_dc.T * scale
    project_out.bias.copy_(mean)
    bias: Tensor | None = project_in.bias
    if bias is None:
        project_out.bias.sub_(axes_dc.T @ coded_mean)
    else:
        bias[:kept] = -coded_mean / scale


def principal_axes(rows_nc: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Compute the leading principal axes `[k, C]` of rows `[n, C]` and their variances `[k]`.

    k is the least of `count`, C and n - 1 (at least 1). Only the first rows are used, as many as
    `PCA_MULTIPLICATIONS` allows; they come shuffled. The sign of each axis makes its largest entry
    positive, so that the result does not depend on the solver.
    """
    used = rows_nc[: max(2, int(PCA_MULTIPLICATIONS / rows_nc.shape[1] ** 2))]
    centred_nc = used - used.mean(dim=0)
    kept = max(1, min(count, centred_nc.shape[1], len(centred_nc) - 1))
    covariance = (centred_nc.T @ centred_nc / max(1, len(centred_nc) - 1)).cpu()
    if kept > len(covariance) // 8:  # small axes need more than float32
        covariance = covariance.double()
    values, vectors = torch.linalg.eigh(covariance)
    axes = vectors[:, -kept:].flip(1).T
    leading = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    axes = axes * torch.where(leading < 0, -1.0, 1.0)
    return axes.to(centred_nc), values[-kept:].flip(0).clamp_min(0).to(centred_nc)


class RateModel(nn.Module):
    """Estimate of bits by predicting each code from the code vectors above and to the left of it.

    It is trained jointly with the network, which learns codes that are predicted well (Minnen et al.,
    2018, arXiv:1809.02736). The convolution is masked (van den Oord et al., 2016, arXiv:1601.06759).
    Files are coded with the prior of `codec/`, which is fitted after the training.
    `code_dim` is the number of channels of a code vector.
    """

    mask: Tensor

    def __init__(self, code_sizes: Sequence[int], code_dim: int) -> None:
        super().__init__()
        self.context = nn.Conv2d(code_dim, HIDDEN_CHANNELS, CONTEXT, padding=CONTEXT // 2)
        self.own = nn.ModuleList(nn.Linear(code_dim, HIDDEN_CHANNELS) for _ in code_sizes[1:])
        self.outputs = nn.ModuleList(nn.Linear(HIDDEN_CHANNELS, size) for size in code_sizes)
        mask = torch.zeros(CONTEXT, CONTEXT)
        mask.view(-1)[: CONTEXT**2 // 2] = 1
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, quantized: Quantized, codebooks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Estimate the bits per vector of codes, given the codebooks' vectors `[K_q, d]`.

        Returns two estimates: one of soft assignments of the inputs to the codebooks, which trains the
        network; and one of the codes themselves, which trains this model only.
        """
        around = self._around(quantized.vectors, quantized.grid)
        known = self._around(quantized.vectors.detach(), quantized.grid)
        soft, hard = [], []
        rest = quantized.inputs
        for q, codebook in enumerate(codebooks):
            kept = quantized.codes[..., q].amin() >= 0  # levels are left out for all vectors
            codes = quantized.codes[..., q].clamp_min(0)
            if q:
                own = self.own[q - 1]((quantized.inputs - rest).detach())
                around, known = around + own, known + own
            shares = _soft_assignment(rest, codebook)
            soft.append(kept * -(shares * self._log2(q, around)).sum(dim=-1).mean())
            hard.append(kept * -self._log2(q, known).gather(2, codes[..., None]).mean())
            rest = rest - F.embedding(codes, codebook)
        share = prod(quantized.grid) / prod(quantized.features.shape[-2:])  # of codes per vector
        return share * torch.stack(soft).sum(), share * torch.stack(hard).sum()

    def _around(self, vectors_bnd: Tensor, grid: Sequence[int]) -> Tensor:
        """Return hidden units `[B, N, H]`, before their activation, from the neighbours' vectors."""
        maps = vectors_bnd.transpose(1, 2).reshape(len(vectors_bnd), -1, *grid)
        masked = self.context.weight * self.mask
        hidden = F.conv2d(maps, masked, self.context.bias, padding=CONTEXT // 2)
        return hidden.flatten(2).transpose(1, 2)

    def _log2(self, q: int, hidden_bnh: Tensor) -> Tensor:
        """Return the base-2 logarithms `[B, N, K]` of the probabilities of code q."""
        active = F.dropout(F.gelu(hidden_bnh), DROPOUT, self.training)
        logits: Tensor = self.outputs[q](active)
        return logits.log_softmax(dim=-1) / math.log(2)


def _soft_assignment(inputs_bnd: Tensor, codebook_kd: Tensor) -> Tensor:
    """Return soft assignments `[B, N, K]` of the inputs to the code vectors, by their distances.

    Dimensions in which the whole codebook is zero do not count, as with groups of pq.
    """
    own = codebook_kd.any(dim=0)
    distances = torch.cdist(inputs_bnd.flatten(0, 1)[:, own], codebook_kd[:, own]).square()
    scale = distances.detach().min(dim=1).values.mean().clamp_min(1e-9)
    return (-distances / (TEMPERATURE * scale)).softmax(dim=1).view(*inputs_bnd.shape[:2], -1)
