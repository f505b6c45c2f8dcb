"""Nearest neighbours that decoded features keep: the metric behind `squeeze evaluate --neighbours`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from squeeze_cli.training import metrics
from squeeze_cli.training.metrics import FeatureComparison, neighbours_kept

B, C, H, W = 3, 6, 2, 5


def kept(original: Tensor, decoded: Tensor, seed: int = 0) -> float:
    generator = torch.Generator().manual_seed(seed)
    return float(neighbours_kept(torch.cat([original, decoded], dim=1), generator))


def plainly_kept(original: Tensor, decoded: Tensor) -> float:
    """The share by sorted lists, a vector at a time."""
    shared = 0
    for i in range(len(original)):
        near = []
        for vectors in (original.double(), decoded.double()):
            cosines = torch.cosine_similarity(vectors[i][None], vectors, dim=1)
            order = [j for j in cosines.argsort(descending=True).tolist() if j != i]
            near.append(set(order[:10]))
        shared += len(near[0] & near[1])
    return shared / (10 * len(original))


def test_neighbours_are_those_of_a_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.randn(40, C, generator=torch.Generator().manual_seed(0))
    decoded = original * torch.tensor([1.0, 1, 1, 1, 0, 0])
    expected = plainly_kept(original, decoded)
    assert 0.4 < expected < 0.95
    assert kept(original, decoded) == pytest.approx(expected)
    assert kept(original, 3 * original) == 1
    monkeypatch.setattr(metrics, "BLOCK_VALUES", 3 * 40 + 1)  # three rows at once
    assert kept(original, decoded) == pytest.approx(expected)


@pytest.mark.parametrize(("count", "measured"), [(0, False), (1, False), (11, False), (12, True)])
def test_where_all_others_are_near_none_can_be_lost(count: int, measured: bool) -> None:
    assert (kept(torch.randn(count, C), torch.randn(count, C)) >= 0) == measured


def test_vectors_of_equal_codes_are_drawn_and_not_taken_in_their_order() -> None:
    """Decoded vectors that are all equal keep what chance keeps, though neighbours stand together."""
    places = torch.arange(300.0) / 300
    original = torch.stack([places.cos(), places.sin()], dim=1)
    assert kept(original, torch.ones(300, 2)) == pytest.approx(10 / 299, abs=0.015)


def test_images_are_means_and_patches_are_drawn_from_all_but_padding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "PATCHES", 11)
    counted = torch.rand(4 * B, H, W, generator=torch.Generator().manual_seed(1)) < 0.5
    counted[:, 0, 0] = True
    numbers = torch.arange(4.0 * B * H * W).view(4 * B, 1, H, W)  # each vector has its own
    maps = numbers.expand(-1, C, -1, -1)
    drawn = {}
    for seed, sizes in ((0, (B, 2 * B, B)), (0, (4 * B,)), (1, (4 * B,))):
        comparison = FeatureComparison(seed)
        for features, own in zip(maps.split(sizes), counted.split(sizes), strict=True):
            comparison.update(features=features, decoded=-features, counted=own)
        images = torch.stack(comparison.images)
        assert images.shape == (4 * B, 2 * C)
        for image, rows, own in zip(images, numbers[:, 0], counted, strict=True):
            torch.testing.assert_close(image[0], rows[own].mean())
            torch.testing.assert_close(image[-1], -rows[own].mean())
        assert torch.equal(comparison.patches[:, 0], -comparison.patches[:, -1])
        chosen = comparison.patches[:, 0].tolist()
        assert len(set(chosen)) == 11
        assert set(chosen) <= set(numbers[:, 0][counted].tolist())
        drawn.setdefault(seed, set()).add(frozenset(chosen))
    assert len(drawn[0]) == 1  # the size of batches draws no others
    assert drawn[1] != drawn[0]
