"""Folded convolutions beside the plain reference: value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from squeeze_cli.kernels.folding import AffineMap, append_ones, convolve_folded


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("dilation", [1, 3])
def test_folded_it_is_the_convolution_of_the_features(size: int, dilation: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, 3, padding=dilation, dilation=dilation, bias=False).double()
    vectors = torch.randn(3, 2, size, size + 1, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    output_map = AffineMap(weight, bias)
    plain = conv(output_map.map_channels(vectors))
    folded = convolve_folded(conv, append_ones(vectors), output_map)
    torch.testing.assert_close(folded, plain)
    probe = torch.randn_like(plain)
    leaves = [vectors, weight, bias, conv.weight]
    for theirs, own in zip(
        torch.autograd.grad((plain * probe).sum(), leaves, retain_graph=True),
        torch.autograd.grad((folded * probe).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(own, theirs)
