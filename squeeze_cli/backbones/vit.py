"""torchvision's ViT-B/32 (Dosovitskiy et al., 2021, arXiv:2010.11929): patch tokens as a map."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import ViT_B_32_Weights, vit_b_32
from torchvision.models.vision_transformer import interpolate_embeddings

from squeeze_cli.backbones.base import Backbone, initial_weights
from squeeze_cli.backbones.weights import Weights, load_strictly, published_weights
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.errors import UsageError

PATCH_PX = 32
TRAINED_SIZE_PX = 224


class ViTBackbone(Backbone):
    """ViT-B/32: 768-d patch tokens after the final layer norm, as a map at stride 32."""

    name = "vit"
    feature_dim = 768
    stride = PATCH_PX
    default_num_classes = 21

    def __init__(self, image_size_px: int, weights: Weights) -> None:
        super().__init__(image_size_px, weights)
        state = weights.read()
        with initial_weights(random=state is None):
            model = vit_b_32(weights=None, image_size=image_size_px)
        model.heads = nn.Identity()
        if state is not None:
            state = {k: v for k, v in state.items() if not k.startswith("heads.")}
            if image_size_px != TRAINED_SIZE_PX and "encoder.pos_embedding" in state:
                state = interpolate_embeddings(image_size_px, PATCH_PX, dict(state))
            load_strictly(model, state, weights.source)
        self.grid = image_size_px // PATCH_PX
        self.model = model
        encoder = model.encoder
        self.first_layers = encoder.layers[:-1]
        self.last_layer = ViTLastLayer(encoder.layers[-1], encoder.ln, self.grid)
        encoder.layers, encoder.ln = nn.Sequential(), nn.Identity()  # they are registered above

    @classmethod
    def check_image_size(cls, image_size_px: int) -> None:
        """Raise UsageError for a size that is no multiple of the patch size."""
        if image_size_px % PATCH_PX:
            lower = max(1, image_size_px // PATCH_PX) * PATCH_PX
            raise UsageError(
                f"--image-size {image_size_px} cannot be cut into ViT-B/32's patches of 32 px: "
                f"take {lower} or {lower + PATCH_PX}."
            )

    @classmethod
    def default_weights(cls, config: ModelConfig) -> Path:
        """Return the file of torchvision's `config.vit_weights`, a whole ViT-B/32."""
        return published_weights(ViT_B_32_Weights, config.vit_weights)

    def trunk(self, images: Tensor) -> Tensor:
        """Compute tokens `[B, 1 + h·w, 768]`, class token first, before the last encoder block."""
        patches = self.model.conv_proj(images).flatten(2).transpose(1, 2)
        class_token = self.model.class_token.expand(len(images), -1, -1)
        tokens = torch.cat([class_token, patches], dim=1) + self.model.encoder.pos_embedding
        state: Tensor = self.first_layers(self.model.encoder.dropout(tokens))
        return state


class ViTLastLayer(nn.Module):
    """The last encoder block and the final norm, without the class token, as a map."""

    def __init__(self, block: nn.Module, norm: nn.Module, grid: int) -> None:
        super().__init__()
        self.block = block
        self.norm = norm
        self.grid = grid

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens `[B, 1 + h·w, 768]` to features `[B, 768, h, w]`."""
        patches: Tensor = self.norm(self.block(tokens))[:, 1:]
        return patches.transpose(1, 2).reshape(len(tokens), -1, self.grid, self.grid)
