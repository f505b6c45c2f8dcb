"""The pool that a training starts from."""

from __future__ import annotations

import pytest
import torch

from squeeze_cli.model import build
from squeeze_cli.model.build import initialize_network
from squeeze_cli.training.modules import SegmentationModule


@pytest.mark.parametrize("pool", [10_000, 70], ids=["all", "some"])
def test_the_normalizer_fits_the_states(
    module: SegmentationModule, monkeypatch: pytest.MonkeyPatch, pool: int
) -> None:
    monkeypatch.setattr(build, "POOL_VECTORS", pool)
    torch.manual_seed(0)
    states = torch.randn(7, 4, 6, 6) * torch.tensor([1.0, 30.0, 0.1, 0.0])[:, None, None] + 5
    counted = torch.ones(7, 6, 6, dtype=torch.bool)
    counted[1:, 4:] = counted[3, :, 5] = False  # padding, where states are of no account
    states.permute(0, 2, 3, 1)[~counted] = 1e6
    initialize_network(module.network, zip(states.split(3), counted.split(3), strict=True), seed=0)
    seen = states.permute(0, 2, 3, 1)[counted][:pool]
    torch.testing.assert_close(module.network.normalizer.mean, seen.mean(dim=0))
    expected = seen.std(dim=0)
    expected[3] = 1  # never moves
    torch.testing.assert_close(module.network.normalizer.std, expected)
