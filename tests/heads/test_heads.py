from __future__ import annotations

import pytest
import torch
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from squeeze_cli.heads.base import ConvolutionalHead, SegmentationHead
from squeeze_cli.heads.deeplab_head import DeepLabSegmentationHead
from squeeze_cli.kernels.folding import AffineMap
from squeeze_cli.model.layers import ResidualPath


@pytest.mark.parametrize("grid", [(13, 28), (28, 28), (7, 40), (5, 6)])
def test_deeplab_head_is_torchvisions(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs = DeepLabHead(16, 3).eval()
    ours = DeepLabSegmentationHead(16, 3, theirs.state_dict()).eval()
    x = torch.randn(2, 16, *grid)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    ours.train(), theirs.train()
    assert ours.layers[0].project[-1].p == theirs[0].project[-1].p == 0.5
    for head in (ours.layers, theirs):  # each draws masks of its own
        head[0].project[-1].p = 0.0
    outputs = [head(x) for head in (ours, theirs)]
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-4)
    probe = torch.randn_like(outputs[0])
    weights = [head[0].convs[i][0].weight for head in (ours.layers, theirs) for i in range(4)]
    gradients = [
        torch.autograd.grad((output * probe).sum(), part)
        for output, part in zip(outputs, (weights[:4], weights[4:]), strict=True)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-2)


def test_deeplab_head_in_rounded_products_is_as_close_as_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = DeepLabHead(16, 3).eval()
    ours = DeepLabSegmentationHead(16, 3, theirs.state_dict()).eval()
    x = torch.randn(2, 16, 13, 28)
    exact = theirs(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        errors = [float((head(x) - exact).square().mean().sqrt()) for head in (theirs, ours)]
    assert errors[1] < 3 * errors[0] + 1e-3


def test_deeplab_head_takes_the_pretrained_weights_that_fit() -> None:
    state = DeepLabHead(16, 21).state_dict()
    head = DeepLabSegmentationHead(16, 3, state)
    assert head.expects_raw_features
    assert torch.equal(head.layers[1].weight, state["1.weight"])
    assert head.layers[4].weight.shape[0] == 3
    assert not DeepLabSegmentationHead(8, 3, state).expects_raw_features
    assert not DeepLabSegmentationHead(16, 3).expects_raw_features


@pytest.mark.parametrize("kind", [ConvolutionalHead, DeepLabSegmentationHead])
def test_folding_copies_no_weight_or_gradient(kind: type[SegmentationHead]) -> None:
    """The channels, over which it sums, are last in memory, also in the moments of the optimizer."""
    head = kind(32, 3)
    optimizer = torch.optim.AdamW(head.parameters())
    output_map = AffineMap(torch.randn(32, 4, requires_grad=True), torch.zeros(32))
    head(torch.randn(2, 4, 6, 6), output_map).square().sum().backward()
    optimizer.step()
    weights = [w for w in head.parameters() if w.shape[1:] == (32, 3, 3)]
    assert weights
    for weight in weights:
        for tensor in (weight, weight.grad, optimizer.state[weight]["exp_avg"]):
            assert tensor.permute(0, 2, 3, 1).is_contiguous()


def test_adapter_starts_as_the_identity_and_learns() -> None:
    adapter = ResidualPath(10, hidden=3)
    x = torch.randn(2, 10, 3, 4)
    assert torch.equal(adapter(x), x)
    adapter(x).square().sum().backward()
    assert adapter.up.weight.grad is not None
    assert adapter.up.weight.grad.abs().sum() > 0
