"""One contract over every registered head: its shape, and the exact fold of the map before it."""

from __future__ import annotations

import pytest
import torch

from squeeze_cli.config.parts import HEADS
from squeeze_cli.heads import create_head
from squeeze_cli.heads.base import SegmentationHead
from squeeze_cli.kernels.folding import AffineMap

CHANNELS, CLASSES, WIDTH = 24, 5, 6


def make_head(name: str, dtype: torch.dtype = torch.float32) -> SegmentationHead:
    """A head that has seen a few batches, so that its BatchNorms do something in eval mode."""
    torch.manual_seed(0)
    head = create_head(name, CHANNELS, CLASSES, {}).to(dtype).train()
    for _ in range(3):
        head(3 * torch.randn(4, CHANNELS, 7, 9, dtype=dtype) + 1)
    for parameter in head.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return head


def make_map(dtype: torch.dtype = torch.float32) -> AffineMap:
    weight = torch.randn(CHANNELS, WIDTH, dtype=dtype) / WIDTH**0.5
    return AffineMap(weight.requires_grad_(), torch.randn(CHANNELS, dtype=dtype).requires_grad_())


@pytest.mark.parametrize("name", HEADS)
def test_logits_have_the_grid_of_the_features(name: str) -> None:
    head = make_head(name).eval()
    assert head(torch.randn(2, CHANNELS, 5, 8)).shape == (2, CLASSES, 5, 8)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", HEADS)
def test_it_folds_exactly(name: str, training: bool) -> None:
    """Folded and unfolded logits, gradients of all parameters and of the map, and buffers agree."""
    results = []
    for folded in (False, True):
        head = make_head(name, torch.float64).train(training)
        output_map = make_map(torch.float64)
        vectors = torch.randn(3, WIDTH, 7, 9, dtype=torch.float64).requires_grad_()
        torch.manual_seed(1)  # the same dropout
        logits = head(vectors, output_map) if folded else head(output_map.map_channels(vectors))
        inputs = [*head.parameters(), output_map.weight, output_map.bias, vectors]
        gradients = torch.autograd.grad(
            logits.square().mean(), inputs, allow_unused=True, materialize_grads=True
        )
        results.append([logits, *gradients, *(each.double() for each in head.buffers())])
    for unfolded, folded_ in zip(*results, strict=True):
        torch.testing.assert_close(folded_, unfolded, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_it_folds_within_1e_5_in_float32(name: str) -> None:
    head, output_map = make_head(name).eval(), make_map()
    vectors = torch.randn(2, WIDTH, 7, 9)
    with torch.no_grad():
        unfolded = head(output_map.map_channels(vectors))
        difference = (head(vectors, output_map) - unfolded).abs().max()
        assert difference < 1e-5 * unfolded.abs().max()


def test_the_linear_head_is_a_linear_map_of_each_vector() -> None:
    head = make_head("linear").eval()
    first, second = torch.randn(2, 1, CHANNELS, 3, 4)
    torch.testing.assert_close(
        head((first + second) / 2), (head(first) + head(second)) / 2, rtol=1e-4, atol=1e-5
    )
    moved = first.clone()
    moved[..., 0, 0] += 1
    assert (head(moved) != head(first)).any(dim=1).nonzero().tolist() == [[0, 0, 0]]
