from __future__ import annotations

import torch
from torch import nn

from squeeze_cli.heads.folding import FoldableConv2d


def test_state_dicts_hold_the_usual_name_and_shape_and_come_back() -> None:
    conv = nn.Conv2d(5, 4, kernel_size=3, bias=False)
    ours, other = FoldableConv2d(conv), FoldableConv2d(nn.Conv2d(5, 4, 3, bias=False))
    state = ours.state_dict()
    assert list(state) == ["weight"]
    assert torch.equal(state["weight"], conv.weight)
    other.load_state_dict(state)
    assert torch.equal(other.weight_ocij, conv.weight)
    assert state["weight"].shape == (4, 5, 3, 3)


def test_a_fused_optimizer_moves_it_as_it_moves_a_convolution() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, kernel_size=3, bias=False)
    ours = FoldableConv2d(conv)
    maps = torch.randn(2, 5, 6, 6)
    steps = [torch.optim.AdamW(m.parameters(), lr=0.1, fused=True) for m in (ours, conv)]
    for _ in range(3):
        for optimizer, weight in zip(steps, (ours.weight_ocij, conv.weight), strict=True):
            optimizer.zero_grad()
            nn.functional.conv2d(maps, weight).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight_ocij, conv.weight, rtol=1e-4, atol=1e-5)
