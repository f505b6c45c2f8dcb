"""torchvision's ViT-B/32 and the ResNet-50 of its DeepLabV3, cut before their last layers.

Dosovitskiy et al., 2021, arXiv:2010.11929; Chen et al., 2017, arXiv:1706.05587.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, ViT_B_32_Weights, resnet50, vit_b_32
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights
from torchvision.models.vision_transformer import interpolate_embeddings

from squeeze_cli.backbones.base import BackboneNetwork, FrozenBackbone
from squeeze_cli.backbones.weights import published_weights
from squeeze_cli.config.schema import ModelConfig, Size
from squeeze_cli.errors import UsageError

PATCH_PX = 32


class ViTBackbone(FrozenBackbone):
    """ViT-B/32: 768-d patch tokens after the final layer norm, as a map at stride 32."""

    feature_dim = 768
    stride = PATCH_PX

    def __init__(self, config: ModelConfig, size_px: Size) -> None:
        side_px, width_px = size_px
        if side_px != width_px:
            raise UsageError(
                f"--image-size {side_px}x{width_px} cannot be used with vit, which takes squares: "
                f"take {side_px} or {width_px}."
            )
        if side_px % PATCH_PX:
            lower = max(1, side_px // PATCH_PX) * PATCH_PX
            raise UsageError(
                f"--image-size {side_px} cannot be cut into ViT-B/32's patches of 32 px: "
                f"take {lower} or {lower + PATCH_PX}."
            )
        super().__init__(config, size_px)

    def default_weights(self, config: ModelConfig) -> Path:
        """Return the file of torchvision's `config.vit_weights`, a whole ViT-B/32."""
        return published_weights(ViT_B_32_Weights, config.vit_weights)

    def create_model(self) -> nn.Module:
        """Create the ViT without its classifier."""
        model: nn.Module = vit_b_32(weights=None, image_size=self.size_px[0])
        model.heads = nn.Identity()
        return model

    def own_state(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Leave out the classifier, and interpolate the positions to the image size."""
        state = {k: v for k, v in state.items() if not k.startswith("heads.")}
        if "encoder.pos_embedding" not in state:
            return state  # of another model: `load_strictly` says so
        return interpolate_embeddings(self.size_px[0], PATCH_PX, state)  # type: ignore[no-any-return]

    def cut(self, model: Any) -> BackboneNetwork:
        """Cut before the last encoder block."""
        last_layer = ViTLastLayer(model.encoder.layers[-1], model.encoder.ln)
        return BackboneNetwork(ViTTrunk(model), last_layer)


class ViTTrunk(nn.Module):
    """Images to tokens `[B, 1 + h·w, 768]`, class token first, before the last encoder block."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.conv_proj = model.conv_proj
        self.class_token = model.class_token
        self.pos_embedding = model.encoder.pos_embedding
        self.layers: nn.Sequential = model.encoder.layers[:-1]

    def forward(self, images: Tensor) -> Tensor:
        """Compute the tokens of images `[B, 3, H, W]`."""
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)
        class_token = self.class_token.expand(len(images), -1, -1)
        tokens: Tensor = self.layers(torch.cat([class_token, patches], dim=1) + self.pos_embedding)
        return tokens


class ViTLastLayer(nn.Module):
    """The last encoder block and the final norm, without the class token, as a map."""

    def __init__(self, block: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.norm = norm

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens `[B, 1 + h·w, 768]` of a square image to features `[B, 768, h, w]`."""
        patches: Tensor = self.norm(self.block(tokens))[:, 1:]
        side = math.isqrt(patches.shape[1])
        return patches.transpose(1, 2).reshape(len(tokens), -1, side, side)


class DeepLabBackbone(FrozenBackbone):
    """ResNet-50 with dilated last stages: 2048 channels at stride 8, 1024 before the last stage."""

    feature_dim = 2048
    stride = 8
    inference_batch = 4

    def default_weights(self, config: ModelConfig) -> Path:
        """Return the file of torchvision's `config.deeplab_weights`, a whole DeepLabV3."""
        return published_weights(DeepLabV3_ResNet50_Weights, config.deeplab_weights)

    def create_model(self) -> nn.Module:
        """Create the ResNet without its classifier."""
        resnet: nn.Module = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
        resnet.fc = nn.Identity()
        return resnet

    def own_state(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Return the part of a DeepLabV3 that is the ResNet's."""
        return _part(state, "backbone.")

    def cut(self, model: Any) -> BackboneNetwork:
        """Cut before the last stage."""
        *trunk, last_layer, _, _ = model.children()  # pooling and classifier are not used
        return BackboneNetwork(nn.Sequential(*trunk), last_layer)

    def head_state(self) -> dict[str, Tensor]:
        """Return the weights of the pretrained DeepLabHead."""
        return _part(self.weights.read() or {}, "classifier.")


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
