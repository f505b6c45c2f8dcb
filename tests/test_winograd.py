"""Winograd convolutions against torch's, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from squeeze_cli.winograd import winograd_convolution, with_winograd


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


@pytest.mark.parametrize("size", [(28, 28), (7, 9), (1, 2), (13, 30)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_a_frozen_network_gives_the_same_also_dilated(size: tuple[int, int], dilation: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(128, 160, 3, padding=dilation, dilation=dilation, bias=False)
    network = nn.Sequential(conv.requires_grad_(False), nn.ReLU())
    quick = with_winograd(network)
    assert network[0] is conv
    assert not isinstance(quick[0], nn.Conv2d)
    maps = torch.randn(3, 128, *size).relu()
    exact = network.double()(maps.double())
    network.float()
    for given in (maps, maps.to(memory_format=torch.channels_last)):
        ours = quick(given)
        assert ours.shape == exact.shape
        assert (ours - exact).abs().max() < 2e-5 * exact.abs().max()


def test_other_convolutions_stay_and_parameters_are_shared() -> None:
    network = nn.Sequential(
        nn.Conv2d(128, 128, 1), nn.Conv2d(128, 128, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(128, 128, 3, padding=1, groups=128, bias=False), nn.Conv2d(128, 128, 3, bias=False),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8),
    ).eval()  # fmt: skip
    quick = with_winograd(network)
    assert quick is not network
    assert [type(layer) for layer in quick] == [type(layer) for layer in network]
    for mine, theirs in zip(
        quick.state_dict().values(), network.state_dict().values(), strict=True
    ):
        assert mine.data_ptr() == theirs.data_ptr()
