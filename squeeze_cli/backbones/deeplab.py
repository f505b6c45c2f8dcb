"""torchvision's DeepLabV3-ResNet50 (Chen et al., 2017, arXiv:1706.05587): its dilated ResNet."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

from squeeze_cli.backbones.base import Backbone, random_weights_seed
from squeeze_cli.backbones.weights import load_strictly, published_weights, weights_from_file
from squeeze_cli.config import ModelConfig

_HEAD = "classifier."


class DeepLabBackbone(Backbone):
    """ResNet-50 with dilated last stages: 2048 channels at stride 8.

    `head_state` holds the pretrained segmentation head's weights where the source had them.
    """

    name = "deeplab"
    feature_dim = 2048
    stride = 8
    default_num_classes = 3
    inference_batch = 4

    def __init__(self, state: dict[str, Tensor] | None, source: str = "given") -> None:
        super().__init__(random_weights=state is None)
        with random_weights_seed():
            resnet = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
        resnet.fc, resnet.avgpool = nn.Identity(), nn.Identity()
        self.head_state: dict[str, Tensor] = {}
        if state is not None:
            self.head_state = {
                k.removeprefix(_HEAD): v for k, v in state.items() if k.startswith(_HEAD)
            }
            body = {
                k.removeprefix("backbone."): v
                for k, v in state.items()
                if k.startswith("backbone.")
            }
            load_strictly(resnet, body, source)
        self.last_layer = resnet.layer4
        resnet.layer4 = nn.Identity()  # registered once, above
        self.first_layers = nn.Sequential(
            resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool,
            resnet.layer1, resnet.layer2, resnet.layer3,
        )  # fmt: skip

    @classmethod
    def from_config(cls, config: ModelConfig, image_size_px: int) -> Self:
        """Weights: torchvision's `config.deeplab_weights`, none, or a file of a whole DeepLabV3."""
        del image_size_px  # any size of 32 px or more works
        if config.weights == "none":
            return cls(None).freeze()
        if config.weights == "default":
            state = published_weights(DeepLabV3_ResNet50_Weights, config.deeplab_weights)
        else:
            state = weights_from_file(Path(config.weights))
        return cls(state, config.weights).freeze()

    def trunk(self, images: Tensor) -> Tensor:
        """The map `[B, 1024, h, w]` before layer4."""
        state: Tensor = self.first_layers(images)
        return state
