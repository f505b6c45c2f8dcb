"""One contract over every backbone and families of timm, with random weights at small sizes."""

from __future__ import annotations

import pytest
import torch

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.base import BackboneNetwork, FrozenBackbone
from squeeze_cli.config.parts import BACKBONES
from squeeze_cli.config.schema import ModelConfig

SIZE = 64
# A small model of each family, by the number of its layers.
FAMILIES = {
    "timm:test_vit": 6,
    "timm:test_vit3": 9,  # pools by attention, as SigLIP does
    "timm:vit_little_patch16_reg4_gap_256": 14,
    "timm:vit_small_patch16_dinov3": 12,  # class token, registers and rotary positions
    "timm:swin_tiny_patch4_window7_224": 4,
    "timm:test_convnext": 4,
    "timm:test_efficientnet": 5,
    "timm:test_resnet": 5,
}


@pytest.fixture(scope="module", params=[*(n for n in BACKBONES if n[-1] != ":"), *FAMILIES])
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


def test_height_and_width_are_not_swapped(frozen: FrozenBackbone) -> None:
    config = ModelConfig(backbone=frozen.name, weights="none")
    wide = create_backbone(config, (64, 96))
    features = wide.network(torch.randn(1, 3, 64, 96))
    assert features.shape[2:] == (64 // frozen.stride, 96 // frozen.stride)
    assert features.shape[2:] == wide.grid


def test_frozen_means_no_gradient_and_eval_mode_also_after_train(network: BackboneNetwork) -> None:
    before = network(images())
    network.train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(network(images()), before)


def test_last_layer_after_trunk_is_the_whole(network: BackboneNetwork) -> None:
    assert torch.equal(network.last_layer(network.trunk(images())), network(images()))


def test_random_weights_are_the_same_everywhere_and_marked(frozen: FrozenBackbone) -> None:
    torch.manual_seed(123)
    again = create_backbone(ModelConfig(backbone=frozen.name, weights="none"), (SIZE, SIZE))
    assert again.weights.digest == frozen.weights.digest
    for mine, other in zip(frozen.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert frozen.random_weights
