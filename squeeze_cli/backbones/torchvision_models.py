"""Backbones of torchvision, cut before their last layers.

`vit` is ViT-B/32 (Dosovitskiy et al., 2021, arXiv:2010.11929), and `deeplab` the ResNet-50 of DeepLabV3
(Chen et al., 2017, arXiv:1706.05587).
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, ViT_B_32_Weights, resnet50, vit_b_32
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights
from torchvision.models.vision_transformer import interpolate_embeddings

from squeeze_cli.backbones.base import BackboneNetwork, FrozenBackbone, ViTLastLayer, check_patches
from squeeze_cli.backbones.weights import published_weights
from squeeze_cli.config.fields import Size
from squeeze_cli.config.schema import ModelConfig

PATCH_PX = 32


def published_urls() -> dict[str, str]:
    """Return the URLs of the default weights of `vit` and `deeplab`."""
    config = ModelConfig()
    return {
        "vit": ViT_B_32_Weights[config.vit_weights].url,
        "deeplab": DeepLabV3_ResNet50_Weights[config.deeplab_weights].url,
    }


class ViTBackbone(FrozenBackbone):
    """ViT-B/32: 768-d patch tokens after the final layer norm, as a map at stride 32."""

    feature_dim = 768
    stride = PATCH_PX

    def __init__(self, config: ModelConfig, size_px: Size) -> None:
        check_patches("ViT-B/32", (PATCH_PX, PATCH_PX), size_px)
        super().__init__(config, size_px)

    def default_weights(self, config: ModelConfig) -> Path:
        """Return torchvision's file of the weights `config.vit_weights`, a whole ViT-B/32."""
        return published_weights(ViT_B_32_Weights, config.vit_weights)

    def create_model(self) -> nn.Module:
        """Create the ViT without its classifier."""
        height, width = self.size_px
        model: VisionTransformer = vit_b_32(weights=None, image_size=height)
        if height != width:  # torchvision's model has positions for squares only
            positions = torch.empty(1, 1 + self.grid[0] * self.grid[1], self.feature_dim)
            model.encoder.pos_embedding = nn.Parameter(positions.normal_(std=0.02))
        model.heads = nn.Identity()
        vit: nn.Module = model
        return vit

    def own_state(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Leave out the classifier, and interpolate the position embeddings to the image size."""
        state = {k: v for k, v in state.items() if not k.startswith("heads.")}
        positions = state.get("encoder.pos_embedding")
        if positions is None:
            return state  # of another model: `load_strictly` raises the error
        if self.grid[0] != self.grid[1]:
            from timm.layers.pos_embed import resample_abs_pos_embed

            return state | {"encoder.pos_embedding": resample_abs_pos_embed(positions, self.grid)}
        return interpolate_embeddings(self.size_px[0], PATCH_PX, state)  # type: ignore[no-any-return]

    def cut(self, model: nn.Module) -> BackboneNetwork:
        """Cut before the last encoder block."""
        assert isinstance(model, VisionTransformer)
        last_layer = ViTLastLayer(model.encoder.layers[-1], model.encoder.ln, 1, self.grid)
        return BackboneNetwork(ViTTrunk(model), last_layer)


class ViTTrunk(nn.Module):
    """Module from images to tokens `[B, 1 + h·w, 768]`, class token first, before the last block."""

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


class DeepLabBackbone(FrozenBackbone):
    """ResNet-50 with dilated last stages: 2048 channels at stride 8, 1024 before the last stage."""

    feature_dim = 2048
    stride = 8
    inference_batch = 4

    def default_weights(self, config: ModelConfig) -> Path:
        """Return torchvision's file of the weights `config.deeplab_weights`, a whole DeepLabV3."""
        return published_weights(DeepLabV3_ResNet50_Weights, config.deeplab_weights)

    def create_model(self) -> nn.Module:
        """Create the ResNet without its classifier."""
        resnet: nn.Module = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
        resnet.fc = nn.Identity()
        return resnet

    def own_state(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Return the ResNet's tensors in the state dict of a DeepLabV3."""
        return _part(state, "backbone.")

    def cut(self, model: nn.Module) -> BackboneNetwork:
        """Cut before the last stage."""
        *trunk, last_layer, _, _ = model.children()  # pooling and classifier are not used
        return BackboneNetwork(nn.Sequential(*trunk), last_layer)

    def head_state(self) -> dict[str, Tensor]:
        """Return the state dict of the pretrained DeepLabHead."""
        return _part(self.weights.read() or {}, "classifier.")


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
