"""Dropout: how much it drops, what it does to the mean and to gradients."""

from __future__ import annotations

import pytest
import torch

from squeeze_cli.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_it_drops_the_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    out = dropout(torch.ones(200_000), p, training=True)
    dropped = (out == 0).float().mean()
    assert dropped == pytest.approx(p, abs=0.005)
    assert out.mean() == pytest.approx(1, abs=0.01)
    assert len(out.unique()) == 2


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(80_000), 0.5, training=True) > 0).float().view(-1, 8)
    assert torch.corrcoef(kept.T).fill_diagonal_(0).abs().max() < 0.05


def test_the_gradient_has_the_same_mask() -> None:
    x = torch.randn(1000, requires_grad=True)
    out = dropout(x, 0.3, training=True)
    out.sum().backward()
    torch.testing.assert_close(out, x * x.grad)


def test_seeds_decide_and_layouts_agree() -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    torch.manual_seed(3)
    out = dropout(x, 0.5, training=True)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.manual_seed(3)
    assert torch.equal(out.permute(0, 2, 3, 1), dropout(x.permute(0, 2, 3, 1), 0.5, training=True))
    assert not torch.equal(out, dropout(x, 0.5, training=True))


def test_nothing_is_dropped_after_training() -> None:
    x = torch.randn(10)
    layer = Dropout(0.5)
    assert not torch.equal(layer(x), x)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(dropout(x, 0.0, training=True), x)
