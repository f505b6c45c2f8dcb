from __future__ import annotations

import torch
from torch import nn

from squeeze_cli.quantizers.base import ChannelScaling


def test_a_scaling_goes_into_a_layer_with_its_gradients() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 3).double()
    scaling = ChannelScaling(torch.randn(6).double(), torch.rand(6).double() + 0.5)
    features = 3 * torch.randn(10, 6).double()
    plain = layer((features - scaling.mean) / scaling.std)
    scaled = nn.functional.linear(features, *scaling.into(layer))
    torch.testing.assert_close(scaled, plain)
    parameters = list(layer.parameters())
    for ours, expected in zip(
        torch.autograd.grad(scaled.square().sum(), parameters),
        torch.autograd.grad(plain.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected)
