"""Batch normalization becomes a part of the convolutions before it, where this changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.fusing import fuse_batch_norms
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.features.prepare import Trunk

SIZE_PX = (64, 96)
EXAMPLE = torch.randn(1, 3, *SIZE_PX, generator=torch.Generator().manual_seed(0))


def norms(network: nn.Module) -> int:
    return sum(isinstance(each, nn.BatchNorm2d) for each in network.modules())


def with_statistics(network: nn.Module) -> nn.Module:
    """Give batch normalizations other statistics than those that leave their input as it is."""
    dice = torch.Generator().manual_seed(0)
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            assert each.running_mean is not None
            assert each.running_var is not None
            each.running_mean.normal_(std=0.1, generator=dice)
            each.running_var.uniform_(0.5, 2.0, generator=dice)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "left"),
    [("efficientnet-lite0", 0), ("deeplab", 0), ("timm:mobilenetv3_small_050", 0),
     ("timm:mixnet_s", 35)],
)  # fmt: skip
def test_features_are_those_of_the_plain_network(name: str, left: int) -> None:
    weights = "default" if name == "efficientnet-lite0" else "none"
    backbone = create_backbone(ModelConfig(backbone=name, weights=weights), SIZE_PX)
    if weights == "none":
        with_statistics(backbone.network)
    before = norms(backbone.network)
    images = torch.randint(0, 256, (2, *SIZE_PX, 3), dtype=torch.uint8)

    def states(fused: bool) -> Tensor:
        trunk = Trunk(
            backbone, "features", Preprocessing(SIZE_PX), torch.device("cpu"), fused=fused
        )
        assert norms(trunk.network) == (left if fused else before)
        return trunk.states(images)

    plain = states(False)
    torch.testing.assert_close(states(True), plain, rtol=0, atol=1e-4 * float(plain.std()))
    assert norms(backbone.network) == before, "the network itself stays as it was"


@pytest.mark.parametrize("fused", [True, False])
def test_the_trunk_does_not_touch_the_last_layer(fused: bool) -> None:
    backbone = create_backbone(ModelConfig(backbone="deeplab", weights="none"), SIZE_PX)
    last_layer = backbone.network.last_layer.train().to("meta")  # as a training moves it to a GPU
    trunk = Trunk(backbone, "trunk", Preprocessing(SIZE_PX), torch.device("cpu"), fused=fused)
    states = trunk.states(torch.zeros(2, *SIZE_PX, 3, dtype=torch.uint8))
    assert states.shape[:2] == (2, 1024)
    assert last_layer.training
    assert all(each.is_meta for each in last_layer.parameters())


class Ways(nn.Module):
    """A convolution, `between`, and batch normalization, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, kernel_size=3)
        self.norm = nn.BatchNorm2d(4, track_running_stats=way != "statistics of the batch")
        self.way = way

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        if self.way == "an operation in place":
            maps.relu_()
        if self.way == "another operation":
            return self.norm(maps.relu())  # type: ignore[no-any-return]
        result: Tensor = self.norm(maps)
        if self.way == "the output used twice":
            result = result + maps
        if self.way == "the convolution used twice":
            result = result + self.norm(self.conv(images.flip(3)))
        return result


@pytest.mark.parametrize(
    "way",
    ["an operation in place", "another operation", "the output used twice",
     "the convolution used twice", "statistics of the batch"],
)  # fmt: skip
def test_what_would_change_the_output_stays(way: str) -> None:
    network = Ways(way).eval()
    if network.norm.running_mean is not None:
        with_statistics(network)
    assert fuse_batch_norms(network, EXAMPLE) is network


def test_pairs_are_fused_and_weights_that_are_not_finite_are_left_to_be_found() -> None:
    network = with_statistics(Ways("none of these"))
    fused = fuse_batch_norms(network, EXAMPLE)
    assert norms(fused) == 0
    torch.testing.assert_close(fused(EXAMPLE), network(EXAMPLE), rtol=1e-4, atol=1e-5)
    assert isinstance(network.conv, nn.Conv2d)
    network.conv.weight.data[0] = torch.nan
    assert fuse_batch_norms(network, EXAMPLE) is network
