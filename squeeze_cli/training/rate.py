"""The rate of codes as a loss: the bits that an entropy coder would need for them."""

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from squeeze_cli.model.network import Quantized

HIDDEN_CHANNELS = 128
DROPOUT = 0.2
# Rows and columns around a vector that its code is predicted from; those above and to the left count.
CONTEXT = 5
# Width of the soft assignment, as a share of the mean squared distance to the nearest code vector.
TEMPERATURE = 0.25


class RateModel(nn.Module):
    """Predicts each code from code vectors above and to the left of it, and estimates bits by that.

    It learns beside the network, which in turn learns codes that it predicts well (joint learning of
    codes and of an autoregressive prior: Minnen et al., 2018, arXiv:1809.02736). The convolution is
    masked (van den Oord et al., 2016, arXiv:1601.06759). Files are coded by the prior of the `codec`,
    which is fitted after the training.

    Args:
        code_sizes: numbers of values of the Q codes of a vector.
        code_dim: channels of a code vector.
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
        """Estimate the bits per vector of codes.

        Returns the estimate that the network learns from, which looks at soft assignments of the
        inputs to the codebooks' vectors `[K_q, d]`; and that of the codes themselves, for the model
        to learn from, which gives the network no gradient.
        """
        around = self._around(quantized.vectors, quantized.grid)
        known = self._around(quantized.vectors.detach(), quantized.grid)
        soft, hard = [], []
        rest = quantized.inputs
        for q, codebook in enumerate(codebooks):
            kept = quantized.codes[..., q].amin() >= 0  # a level is left out of all vectors alike
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
        """Return hidden units `[B, N, H]`, before their activation, of the neighbours' vectors."""
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
    """Return shares `[B, N, K]` of the code vectors, by their distance to the inputs.

    It counts in the dimensions of the codebook: those of pq are zero but for a part of them.
    """
    own = codebook_kd.any(dim=0)
    distances = torch.cdist(inputs_bnd.flatten(0, 1)[:, own], codebook_kd[:, own]).square()
    scale = distances.detach().min(dim=1).values.mean().clamp_min(1e-9)
    return (-distances / (TEMPERATURE * scale)).softmax(dim=1).view(*inputs_bnd.shape[:2], -1)
