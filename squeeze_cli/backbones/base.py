"""What every backbone is: a frozen network from images to a dense feature map.

    images [B, 3, H, W] --trunk--> state --last_layer--> features [B, C, h, w]

The cut before the last layer serves `--unfreeze-last-layer`: the trunk stays frozen, so that its
output can be stored like features, and only the last layer is trained.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from squeeze_cli.backbones.weights import RANDOM_WEIGHTS_SEED, Weights, existing_file
from squeeze_cli.config.schema import ModelConfig


class Backbone(nn.Module):
    """Base of all backbones: frozen means no gradient and eval mode, also after `.train()`."""

    name: str
    feature_dim: int
    stride: int
    default_num_classes: int
    # Images that pass through it at once: more keep a GPU busy, fewer the processor's cache warm.
    inference_batch: int = 8

    last_layer: nn.Module

    @abstractmethod
    def __init__(self, image_size_px: int, weights: Weights) -> None:
        super().__init__()

    @classmethod
    def check_image_size(cls, image_size_px: int) -> None:
        """Raise UsageError for images that it cannot take; most take any of 32 px or more."""

    @classmethod
    @abstractmethod
    def default_weights(cls, config: ModelConfig) -> Path:
        """The file behind `--weights default`, fetched where it is not there yet."""

    @classmethod
    def find_weights(cls, config: ModelConfig) -> Weights:
        """The weights that `config` names; SqueezeError where they are missing."""
        if config.weights == "none":
            return Weights("none")
        if config.weights == "default":
            return Weights("default", cls.default_weights(config))
        return Weights(config.weights, existing_file(Path(config.weights)))

    @classmethod
    def head_state(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What of a whole model's weights belongs to its segmentation head, by the head's names."""
        del state
        return {}

    @abstractmethod
    def trunk(self, images: Tensor) -> Tensor:
        """All but the last layer: images `[B, 3, H, W]` to the state that `last_layer` takes."""

    def extract_features(self, images: Tensor) -> Tensor:
        """Features `[B, C, H/stride, W/stride]` of ImageNet-normalized float32 `[B, 3, H, W]`."""
        features: Tensor = self.last_layer(self.trunk(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """The same as `extract_features`."""
        return self.extract_features(images)

    def freeze(self) -> Self:
        """Stop all gradients and go to eval mode, for good."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: batch statistics and dropout of a frozen network never move."""
        del mode
        return super().train(False)


@contextmanager
def initial_weights(*, random: bool) -> Iterator[None]:
    """Modules made within the block get random weights by a fixed seed, or no memory for any yet.

    torch's random numbers are as before afterwards.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if random else "meta"):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        yield
