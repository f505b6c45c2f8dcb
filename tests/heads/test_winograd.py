"""Winograd convolutions against torch's, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from squeeze_cli.heads.winograd import winograd_convolution


@pytest.mark.parametrize("size", [(28, 28), (7, 7), (1, 1), (5, 9)], ids=str)
def test_it_is_the_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 64, *size).relu().to(memory_format=torch.channels_last)
    weight = torch.randn(32, 64, 3, 3) / 24
    maps.requires_grad_()
    weight.requires_grad_()
    ours = winograd_convolution(maps, weight)
    exact = F.conv2d(maps.double(), weight.double(), padding=1)
    assert ours.shape == exact.shape
    assert (ours - exact).abs().max() < 1e-5 * exact.abs().max()
    towards = torch.randn_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (maps, weight), towards),
        torch.autograd.grad(exact, (maps, weight), towards.double()),
        strict=True,
    ):
        assert (mine - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    maps, weight = torch.randn(1, 3, 8, 8), torch.randn(2, 3, 3, 3, requires_grad=True)
    winograd_convolution(maps, weight).sum().backward()
    assert weight.grad is not None
    assert maps.grad is None
