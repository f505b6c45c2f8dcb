"""torchvision's DeepLabV3-ResNet50 (Chen et al., 2017, arXiv:1706.05587): its dilated ResNet."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

from squeeze_cli.backbones.base import Backbone, initial_weights
from squeeze_cli.backbones.weights import Weights, load_strictly, published_weights
from squeeze_cli.config.schema import ModelConfig


class DeepLabBackbone(Backbone):
    """ResNet-50 with dilated last stages: 2048 channels at stride 8."""

    name = "deeplab"
    feature_dim = 2048
    stride = 8
    default_num_classes = 3
    inference_batch = 4

    def __init__(self, image_size_px: int, weights: Weights) -> None:
        super().__init__(image_size_px, weights)
        state = weights.read()
        with initial_weights(random=state is None):
            resnet = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
        resnet.fc, resnet.avgpool = nn.Identity(), nn.Identity()
        if state is not None:
            load_strictly(resnet, _part(state, "backbone."), weights.source)
        self.last_layer = resnet.layer4
        resnet.layer4 = nn.Identity()  # it is registered above
        self.first_layers = nn.Sequential(
            resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool,
            resnet.layer1, resnet.layer2, resnet.layer3,
        )  # fmt: skip

    @classmethod
    def default_weights(cls, config: ModelConfig) -> Path:
        """Return the file of torchvision's `config.deeplab_weights`, a whole DeepLabV3."""
        return published_weights(DeepLabV3_ResNet50_Weights, config.deeplab_weights)

    @classmethod
    def head_state(cls, weights: Weights) -> dict[str, Tensor]:
        """Return the weights of the pretrained DeepLabHead."""
        return _part(weights.read() or {}, "classifier.")

    def trunk(self, images: Tensor) -> Tensor:
        """Compute the map `[B, 1024, h, w]` before layer4."""
        state: Tensor = self.first_layers(images)
        return state


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
