from __future__ import annotations

import pytest
import torch
from torch import nn

from squeeze_cli.kernels.dilated import DilatedConv2d
from squeeze_cli.kernels.folding import FoldableConv2d, append_ones
from squeeze_cli.quantizers.base import AffineMap

KINDS = pytest.mark.parametrize("kind", [FoldableConv2d, DilatedConv2d])


@KINDS
def test_state_dicts_hold_the_usual_name_and_shape_and_come_back(
    kind: type[FoldableConv2d] | type[DilatedConv2d],
) -> None:
    conv = nn.Conv2d(5, 4, kernel_size=3, bias=False)
    ours, other = kind(conv), kind(nn.Conv2d(5, 4, 3, bias=False))
    state = ours.state_dict()
    assert list(state) == ["weight"]
    assert torch.equal(state["weight"], conv.weight)
    other.load_state_dict(state)
    assert list(state) == ["weight"]
    assert torch.equal(other.state_dict()["weight"], conv.weight)
    assert state["weight"].shape == (4, 5, 3, 3)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})


@KINDS
@pytest.mark.parametrize("size", [2, 7])
def test_folded_it_is_the_convolution_of_the_features(
    kind: type[FoldableConv2d] | type[DilatedConv2d], size: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, 3, padding=3, dilation=3, bias=False).double()
    if kind is FoldableConv2d:
        conv = nn.Conv2d(5, 4, 3, padding=1, bias=False).double()
    ours = kind(conv)
    vectors = torch.randn(2, 2, size, size, dtype=torch.float64)
    weight = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    output_map = AffineMap(weight, bias)
    features = output_map(vectors.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    folded = ours(append_ones(vectors), output_map)
    plain = conv(features)
    torch.testing.assert_close(folded, plain)
    torch.testing.assert_close(ours(features), plain)
    probe = torch.randn_like(plain)
    for theirs, own in zip(
        torch.autograd.grad((plain * probe).sum(), [weight, bias], retain_graph=True),
        torch.autograd.grad((folded * probe).sum(), [weight, bias]),
        strict=True,
    ):
        torch.testing.assert_close(own, theirs)


def test_taps_that_meet_only_padding_are_left_to_rest() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, 3, padding=6, dilation=6, bias=False)
    ours = DilatedConv2d(conv)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.1, fused=True)
    before = ours.state_dict()["weight"].clone()
    ours(torch.randn(2, 5, 6, 6)).square().sum().backward()
    optimizer.step()
    moved = (ours.state_dict()["weight"] != before).all(dim=0).all(dim=0)
    assert moved.nonzero().tolist() == [[1, 1]]
    ours(torch.randn(2, 5, 7, 7)).square().sum().backward()
    assert ours.around.grad is not None


def test_a_fused_optimizer_moves_it_as_it_moves_a_convolution() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, kernel_size=3, bias=False)
    ours = FoldableConv2d(conv)
    maps = torch.randn(2, 5, 6, 6)
    steps = [torch.optim.AdamW(m.parameters(), lr=0.1, fused=True) for m in (ours, conv)]
    for _ in range(3):
        for optimizer, module in zip(steps, (ours, conv), strict=True):
            optimizer.zero_grad()
            module(maps).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict()["weight"], conv.weight, rtol=1e-4, atol=1e-5)
