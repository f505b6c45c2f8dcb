"""Squares of vectors that share a code (`--code-stride`): the contract over every quantizer."""

from __future__ import annotations

import pytest
import torch

from squeeze_cli.backbones.base import FeatureOrigin
from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.config.resolve import resolve_config
from squeeze_cli.errors import UsageError
from squeeze_cli.features.arrays import GivenFeatures
from squeeze_cli.model.build import build_network, initialize_network
from squeeze_cli.model.layers import Blocks
from squeeze_cli.model.network import SegmentationNetwork

B, H, W, C, D = 3, 5, 7, 12, 8
CODING = [name for name, entry in QUANTIZERS.items() if "code_stride" in entry.options]


def smooth_states(count: int) -> torch.Tensor:
    """States `[n, C, H, W]` whose neighbours are alike, so that they can share a code."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, C, 3, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, scale_factor=2)[:, :, :H, :W] * 3 + 5


def make_network(
    quantizer: str, stride: int, origin: FeatureOrigin | None = None, **more: object
) -> SegmentationNetwork:
    torch.manual_seed(0)
    values = {
        "quantizer.type": quantizer, "quantizer.code_stride": stride, "model.num_classes": 3,
        "quantizer.bottleneck_dim": D, "model.backbone": "efficientnet-lite0", **more,
    }  # fmt: skip
    if "codebook_size" in QUANTIZERS[quantizer].options:
        values["quantizer.codebook_size"] = 16
    config = resolve_config("quantized", values)
    return build_network(config, origin or GivenFeatures((H, W, C)))


def initialized(quantizer: str, stride: int, **more: object) -> SegmentationNetwork:
    network = make_network(quantizer, stride, **more)
    states = smooth_states(64)
    counted = torch.ones(64, H, W, dtype=torch.bool)
    initialize_network(network, zip(states.split(16), counted.split(16), strict=True), seed=0)
    return network.eval()


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("grid", [(4, 8), (5, 7), (1, 6), (2, 1)])
def test_blocks_hold_their_own_vectors_and_give_them_back(
    grid: tuple[int, int], stride: int
) -> None:
    blocks = Blocks(C, D, stride)
    maps = torch.randn(B, D, *grid)
    gathered = blocks.gather(maps)
    rows, columns = blocks.grid(grid)
    assert gathered.shape == (B, D * stride**2, rows, columns)
    assert torch.equal(blocks.scatter(gathered.permute(0, 2, 3, 1).flatten(1, 2), grid), maps)
    cell = maps[:, :, : min(stride, grid[0]), : min(stride, grid[1])]
    first = gathered[..., 0, 0].view(B, D, stride, stride)
    assert torch.equal(first[..., : cell.shape[2], : cell.shape[3]], cell)
    last = gathered[..., -1, -1].view(B, D, stride, stride)
    assert torch.equal(last[..., -1, -1], maps[..., -1, -1])  # the overhang repeats the border


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("quantizer", CODING)
def test_a_block_has_one_code_which_decodes_to_all_its_vectors(quantizer: str, stride: int) -> None:
    network = initialized(quantizer, stride)
    states = smooth_states(B)
    output = network(states)
    grid = -(-H // stride), -(-W // stride)
    assert output.grid == network.code_grid((H, W)) == grid
    codes = network.codes(output.features)
    assert codes.shape == (B, *grid, len(network.quantizer.code_sizes))
    assert torch.equal(codes.flatten(1, 2), output.codes)
    decoded = network.decode(network.quantizer.lookup(output.codes), (H, W))
    assert decoded.shape == output.features.shape
    assert torch.equal(decoded, network.decoded(output))
    assert torch.equal(
        network.logits(network.quantizer.lookup(output.codes), (H, W)), output.logits
    )
    changed = states.clone()
    changed[:, :, 1, 1] += 100
    others = network(changed).codes.unflatten(1, grid)
    assert (others[:, 0, 0] != codes[:, 0, 0]).any()
    others[:, 0, 0] = codes[:, 0, 0]
    assert torch.equal(others, codes)


@pytest.mark.parametrize("quantizer", CODING)
def test_blocks_start_with_less_error_than_the_mean_feature(quantizer: str) -> None:
    """Where neighbours are alike, a code for four of them loses little more than one for each."""
    states = smooth_states(16)
    errors = {}
    for stride in (1, 2):
        output = (network := initialized(quantizer, stride))(states)
        errors[stride] = (network.decoded(output) - output.features).square().mean().item()
    assert errors[2] < 0.9
    assert errors[2] < errors[1] + 0.25


@pytest.mark.parametrize("quantizer", CODING)
def test_gradients_reach_both_projections_and_the_head_is_folded(quantizer: str) -> None:
    network = initialized(quantizer, 2, **{"model.encoder": "conv"})
    folded = network(smooth_states(B)).logits
    network.use_kernels = False
    torch.testing.assert_close(network(smooth_states(B)).logits, folded, rtol=1e-3, atol=1e-4)
    network.train()
    output = network(smooth_states(B))
    (output.logits.square().mean() + output.quantizer_loss).backward()
    assert network.blocks is not None
    for projection in (network.blocks.project_in, network.blocks.project_out):
        assert projection.weight.grad is not None
        assert projection.weight.grad.abs().sum() > 0
    assert set(network.blocks.project_in.parameters()) <= set(network.encoder_parameters())
    assert not set(network.blocks.project_out.parameters()) & set(network.encoder_parameters())


def test_padding_takes_no_part_in_the_start() -> None:
    """The normalizer is that of vectors that count; blocks of padding alone start no code."""
    network = make_network("vq", 2)
    states, counted = smooth_states(64), torch.zeros(64, H, W, dtype=torch.bool)
    counted[:, :3, :3] = True
    states.permute(0, 2, 3, 1)[:, :, 4:] = 1e6
    initialize_network(network, [(states, counted)], seed=0)
    seen = states.permute(0, 2, 3, 1)[counted]
    torch.testing.assert_close(network.normalizer.mean, seen.mean(dim=0))
    (book,) = network.quantizer.code_vectors()
    assert book.abs().max() < 100


@pytest.mark.parametrize(
    ("stride", "shape", "more", "reason"),
    [
        (2, (1, 1, C), {}, "--code-stride 2 joins neighbouring vectors"),
        (4, (H, W, 320), {"quantizer.bottleneck_dim": 300}, "blocks of 4,800 values"),
    ],
)
def test_what_makes_no_blocks_is_refused(
    stride: int, shape: tuple[int, int, int], more: dict[str, object], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        make_network("vq", stride, GivenFeatures(shape), **more)
