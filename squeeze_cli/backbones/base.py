"""Interface of all backbones: a frozen network from images to a dense feature map.

    images [B, 3, H, W] --trunk--> state --last_layer--> features [B, C, h, w]

The cut before the last layer is for `--unfreeze-last-layer`: the trunk stays frozen, so its output
can be stored like features, and only the last layer is trained.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from squeeze_cli.backbones.weights import RANDOM_WEIGHTS_SEED, Weights, load_strictly
from squeeze_cli.config.fields import Size, size_text
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.data.transforms import Statistics
from squeeze_cli.errors import UsageError


class BackboneNetwork(nn.Module):
    """A frozen trunk and last layer: without gradients and in eval mode, also after `.train()`."""

    def __init__(self, trunk: nn.Module, last_layer: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.last_layer = last_layer
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute features `[B, C, H/stride, W/stride]` of normalized images."""
        features: Tensor = self.last_layer(self.trunk(images))
        return features

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, because a frozen network uses no batch statistics and no dropout."""
        return super().train(False)


class FeatureOrigin(ABC):
    """Origin of features: a backbone, or files of given features.

    Attributes:
        name: name of the backbone, or `features` for given features.
        feature_dim: number of channels.
        grid: rows and columns of the feature map.
        random_weights: whether the backbone is untrained.
        inference_batch: images per forward pass of the backbone.
        evaluation_images: most images per batch of stored features in validation and test.
        layers: indices of the chosen layers of a timm model.
    """

    name: str
    feature_dim: int
    grid: Size
    random_weights: bool = False
    inference_batch: int
    evaluation_images: int
    layers: tuple[int, ...] = ()

    @property
    def vectors_per_image(self) -> int:
        """Number of feature vectors of an image."""
        return prod(self.grid)

    @property
    @abstractmethod
    def digest(self) -> str:
        """Digest of the weights, or of all given features."""

    def head_state(self) -> dict[str, Tensor]:
        """Return the state dict of the pretrained segmentation head; empty if there is none."""
        return {}


class FrozenBackbone(FeatureOrigin):
    """Base of all backbones; weights and image size are given, and `network` is built when needed.

    With stored features only sizes and the weights' digest are used, so the weights are not loaded.
    """

    stride: int
    statistics = Statistics()  # of the network's input images
    # Images per forward pass: large batches keep a GPU busy, small ones fit in a CPU's cache.
    inference_batch = 8
    evaluation_images = 16

    def __init__(self, config: ModelConfig, size_px: Size) -> None:
        self.name = config.backbone
        self.size_px = size_px
        # The last vector of a row may stand for less than a stride.
        self.grid = -(-size_px[0] // self.stride), -(-size_px[1] // self.stride)
        self.random_weights = config.weights == "none"
        self._config = config
        if config.weights != "default":
            _ = self.weights  # a missing file is an error at once

    @cached_property
    def weights(self) -> Weights:
        """The weights; those that are published are downloaded when they are first used."""
        config = self._config
        file = self.default_weights(config) if config.weights == "default" else Path(config.weights)
        return Weights(config.weights, None if self.random_weights else file)

    @property
    def digest(self) -> str:
        """Digest of the weights."""
        return self.weights.digest

    @abstractmethod
    def default_weights(self, config: ModelConfig) -> Path:
        """Return the file of `--weights default`, and download it if needed."""

    @abstractmethod
    def create_model(self) -> nn.Module:
        """Create the library's model with its initial weights."""

    def own_state(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Return the tensors of a weights file, renamed to the names in `model`."""
        return state

    @abstractmethod
    def cut(self, model: nn.Module) -> BackboneNetwork:
        """Cut the library's model before its last layer."""

    @cached_property
    def network(self) -> BackboneNetwork:
        """The frozen network; raises SqueezeError if the weights cannot be read or do not fit."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_WEIGHTS_SEED)
            return self.cut(self.load_model(self.weights.read()))

    def load_model(self, state: dict[str, Tensor] | None) -> nn.Module:
        """Create the library's model with the weights of a file, or its initial ones for None."""
        # On the meta device, weights that a file replaces are not allocated.
        with torch.device("cpu" if state is None else "meta"):
            model = self.create_model()
        if state is not None:
            load_strictly(model, self.own_state(state, model), self.weights.source)
        return model


class ViTLastLayer(nn.Module):
    """Last block and final norm of a ViT, from tokens to a map without class and register tokens.

    Args:
        block: the last block.
        norm: the final norm.
        prefix: number of class and register tokens, which stand before the patch tokens.
        grid: rows and columns of patches.
    """

    def __init__(self, block: nn.Module, norm: nn.Module, prefix: int, grid: Size) -> None:
        super().__init__()
        self.block = block
        self.norm = norm
        self.prefix = prefix
        self.grid = grid

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens `[B, prefix + h·w, C]` to features `[B, C, h, w]`."""
        patches: Tensor = self.norm(self.block(tokens))[:, self.prefix :]
        return patches.transpose(1, 2).reshape(len(tokens), -1, *self.grid)


def check_patches(name: str, patch_px: Size, size_px: Size) -> None:
    """Raise UsageError, with the nearest sizes, unless the image size is a multiple of the patches."""
    if any(size % side for size, side in zip(size_px, patch_px, strict=True)):
        lower = [max(1, size // side) * side for size, side in zip(size_px, patch_px, strict=True)]
        upper = [size + side for size, side in zip(lower, patch_px, strict=True)]
        given, below, above = (size_text(sides) for sides in (size_px, lower, upper))
        raise UsageError(
            f"--image-size {given} cannot be cut into the patches of {name}, which have "
            f"{size_text(patch_px)} px: use {below} or {above}."
        )
