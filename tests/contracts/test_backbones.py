"""One contract over every registered backbone, with random weights at small sizes."""

from __future__ import annotations

import pytest
import torch

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.base import BackboneNetwork, FrozenBackbone
from squeeze_cli.config.parts import BACKBONES
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.errors import UsageError
from squeeze_cli.heads import create_head
from squeeze_cli.kernels.folding import AffineMap

SIZE = 64


@pytest.fixture(scope="module", params=list(BACKBONES))
def frozen(request: pytest.FixtureRequest) -> FrozenBackbone:
    return create_backbone(ModelConfig(backbone=request.param, weights="none"), (SIZE, SIZE))


@pytest.fixture(scope="module")
def network(frozen: FrozenBackbone) -> BackboneNetwork:
    return frozen.network


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def test_features_have_the_stated_shape(frozen: FrozenBackbone) -> None:
    features = frozen.network(images())
    side = SIZE // frozen.stride
    assert features.shape == (2, frozen.feature_dim, side, side)
    assert features.dtype == torch.float32


def test_height_and_width_are_not_swapped_and_vit_takes_squares(frozen: FrozenBackbone) -> None:
    config = ModelConfig(backbone=frozen.name, weights="none")
    if frozen.name == "vit":
        with pytest.raises(UsageError, match="takes squares: take 64 or 96"):
            create_backbone(config, (64, 96))
        return
    wide = create_backbone(config, (64, 96))
    features = frozen.network(torch.randn(1, 3, 64, 96))
    assert features.shape[2:] == (64 // frozen.stride, 96 // frozen.stride)
    assert features[0, 0].numel() == wide.vectors_per_image


def test_frozen_means_no_gradient_and_eval_mode_also_after_train(network: BackboneNetwork) -> None:
    before = network(images())
    network.train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(network(images()), before)


def test_last_layer_after_trunk_is_the_whole(network: BackboneNetwork) -> None:
    assert torch.equal(network.last_layer(network.trunk(images())), network(images()))
    assert sum(p.numel() for p in network.last_layer.parameters()) > 0


def test_random_weights_are_the_same_everywhere_and_marked(frozen: FrozenBackbone) -> None:
    torch.manual_seed(123)
    again = create_backbone(ModelConfig(backbone=frozen.name, weights="none"), (SIZE, SIZE))
    assert again.weights.digest == frozen.weights.digest
    for mine, other in zip(frozen.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert frozen.random_weights


def folded_and_unfolded(backbone: FrozenBackbone, dtype: torch.dtype) -> list[list[torch.Tensor]]:
    """Logits and all gradients, unfolded first."""
    torch.manual_seed(0)
    d, side = 6, SIZE // backbone.stride + 3
    head = (
        create_head(backbone.name, backbone.feature_dim, 5, backbone.head_state()).to(dtype).train()
    )
    weight = (torch.randn(backbone.feature_dim, d, dtype=dtype) / d).requires_grad_()
    bias = torch.randn(backbone.feature_dim, dtype=dtype).requires_grad_()
    vectors = torch.randn(3, d, side, side + 2, dtype=dtype).requires_grad_()
    output_map = AffineMap(weight, bias)
    results = []
    for folded in (False, True):
        torch.manual_seed(1)  # the same dropout
        if folded:
            logits = head(vectors, output_map)
        else:
            logits = head(output_map(vectors.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        inputs = [*head.parameters(), weight, bias, vectors]
        loss = logits.square().mean()
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        results.append([logits, *gradients])
    return results


def test_its_head_folds_exactly(frozen: FrozenBackbone) -> None:
    """Folded and unfolded logits, and gradients of all parameters and of the map, agree."""
    for unfolded, folded in zip(*folded_and_unfolded(frozen, torch.float64), strict=True):
        torch.testing.assert_close(folded, unfolded, rtol=1e-8, atol=1e-12)


def test_its_head_folds_within_1e_5_in_float32(frozen: FrozenBackbone) -> None:
    """In eval mode; in training BatchNorm divides the pooled branch, three values, by their spread."""
    torch.manual_seed(0)
    channels, d = frozen.feature_dim, 16
    head = create_head(frozen.name, channels, 5, frozen.head_state()).eval()
    output_map = AffineMap(torch.randn(channels, d) / d**0.5, torch.randn(channels))
    vectors = torch.randn(2, d, 7, 9)
    with torch.no_grad():
        unfolded = head(output_map(vectors.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        assert (head(vectors, output_map) - unfolded).abs().max() < 1e-5
