"""Rate loss: estimates of the bits that an entropy coder needs for the codes."""

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from squeeze_cli.quantizers.base import Quantized

HIDDEN_CHANNELS = 128
DROPOUT = 0.2
# Side of the window around a vector; its code is predicted from the vectors above and to the left.
CONTEXT = 5
# Width of the soft assignment, as a share of the mean squared distance to the nearest code vector.
TEMPERATURE = 0.25
# Share of a step's magnitudes in the moving averages, and the smallest scale in steps.
SCALE_MOMENTUM, SMALLEST_SCALE = 0.05, 0.06
# Vectors of an image for which weights of the rate of coefficients are those of a bit per vector.
USUAL_VECTORS = 196


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


class CoefficientRate(nn.Module):
    """Estimate of the bits of transform coefficients, each with a Laplace distribution of its own.

    The scales, N frequencies times D axes, are moving averages of the magnitudes. Uniform noise stands
    for the rounding (Ballé et al., 2017, arXiv:1611.01704).
    """

    scales: Tensor

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("scales", torch.zeros(shape))

    def forward(self, quantized: Quantized, codebooks: Sequence[Tensor]) -> tuple[Tensor, None]:
        """Estimate the bits of the coefficients in `quantized.inputs`, which are in steps.

        Returns the bits per image, divided by `USUAL_VECTORS`: the step grows with the number of
        vectors, so the weight of a bit per vector must grow too. The second result is None, because
        the scales are not trained.
        """
        inputs = quantized.inputs
        noisy = (inputs + torch.rand_like(inputs) - 0.5).abs()
        with torch.no_grad():
            magnitudes = inputs.abs().mean(dim=0)
            if distributed.is_available() and distributed.is_initialized():
                distributed.all_reduce(magnitudes)
                magnitudes /= distributed.get_world_size()
            first = self.scales.sum() == 0
            self.scales.lerp_(magnitudes, torch.where(first, 1.0, SCALE_MOMENTUM))
        rates = 1 / self.scales.clamp_min(SMALLEST_SCALE)
        # The logarithm of a Laplace distribution's integral over one step, beyond and around 0.
        beyond = (0.5 - noisy) * rates + (-torch.expm1(-rates) / 2).log()
        near = noisy.clamp_max(0.5) * rates
        around = (1 - (-0.5 * rates).exp() * near.cosh()).clamp_min(1e-9).log()
        bits = -torch.where(noisy > 0.5, beyond, around) / math.log(2)
        return bits.sum() / (len(bits) * USUAL_VECTORS), None
