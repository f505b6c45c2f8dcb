"""Dilated convolutions by their taps beside torch's convolution: value and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from squeeze_cli.kernels.dilation import centre_tap, convolve_dilated, meets_little


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dilation", [1, 3, 4, 6, 9])
@pytest.mark.parametrize("size", [(5, 7), (7, 4), (1, 6)])
def test_it_is_the_plain_convolution(
    size: tuple[int, int], dilation: int, channels_last: bool
) -> None:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    maps, weight = (
        torch.randn(*shape, dtype=torch.float64).to(memory_format=layout).requires_grad_()
        for shape in ((2, 3, *size), (4, 3, 3, 3))
    )
    plain = F.conv2d(maps, weight, None, 1, dilation, dilation)
    ours = convolve_dilated(maps, weight, dilation)
    torch.testing.assert_close(ours, plain)
    probe = torch.randn_like(plain)
    gradients = torch.autograd.grad((ours * probe).sum(), (maps, weight))
    torch.testing.assert_close(
        gradients, torch.autograd.grad((plain * probe).sum(), (maps, weight))
    )
    if dilation >= max(size):
        torch.testing.assert_close(F.conv2d(maps, centre_tap(weight)), plain)


def test_only_the_gradients_that_are_needed_are_computed() -> None:
    maps, weight = torch.randn(1, 3, 5, 5), torch.randn(2, 3, 3, 3, requires_grad=True)
    convolve_dilated(maps, weight, 4).sum().backward()
    assert weight.grad is not None
    assert maps.grad is None


def test_the_share_of_the_products_is_counted() -> None:
    for size, dilation in (((28, 28), 24), ((28, 28), 12), ((7, 40), 6), ((5, 5), 1)):
        ones = torch.ones(1, 1, *size), torch.ones(1, 1, 3, 3)
        met = float(F.conv2d(*ones, None, 1, dilation, dilation).sum())
        assert meets_little(size, dilation) == (met <= 0.25 * 9 * size[0] * size[1])
