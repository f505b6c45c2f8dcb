"""One contract over every registered backbone, with random weights at small sizes."""

from __future__ import annotations

import pytest
import torch

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.base import BackboneNetwork, FrozenBackbone
from squeeze_cli.config.parts import BACKBONES
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.errors import UsageError

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
