"""The contract of all backbones: a frozen network from images to a dense feature map.

    images [B, 3, H, W] --trunk--> state --last_layer--> features [B, C, h, w]

The cut before the last layer serves `--unfreeze-last-layer`: the trunk stays frozen, so its output
can be stored like features, and only the last layer is trained.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from squeeze_cli.backbones.weights import RANDOM_WEIGHTS_SEED, Weights
from squeeze_cli.config.schema import ModelConfig


class Backbone(nn.Module):
    """Base of all backbones: frozen means no gradient and eval mode, also after `.train()`."""

    name: str
    feature_dim: int
    stride: int
    default_num_classes: int
    # Images per forward pass: many keep a GPU busy, few stay in a CPU's cache.
    inference_batch: int = 8

    last_layer: nn.Module

    @abstractmethod
    def __init__(self, image_size_px: int, weights: Weights) -> None:
        super().__init__()

    @classmethod
    def check_image_size(cls, image_size_px: int) -> None:
        """Raise UsageError for an image size that the backbone cannot take."""

    @classmethod
    @abstractmethod
    def default_weights(cls, config: ModelConfig) -> Path:
        """Return the file behind `--weights default`, downloading it if needed."""

    @classmethod
    def find_weights(cls, config: ModelConfig) -> Weights:
        """Return the weights that `config` names; raise SqueezeError if they are missing."""
        if config.weights == "none":
            return Weights("none")
        if config.weights == "default":
            return Weights("default", cls.default_weights(config))
        return Weights(config.weights, Path(config.weights))

    @classmethod
    def head_state(cls, weights: Weights) -> dict[str, Tensor]:
        """Read the pretrained segmentation head in `weights`, by the head's names; empty if none.

        Only a backbone that comes with a head reads the file.
        """
        del weights
        return {}

    @abstractmethod
    def trunk(self, images: Tensor) -> Tensor:
        """Run all but the last layer: images `[B, 3, H, W]` to the input of `last_layer`."""

    def extract_features(self, images: Tensor) -> Tensor:
        """Compute features `[B, C, H/stride, W/stride]` of ImageNet-normalized images."""
        features: Tensor = self.last_layer(self.trunk(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Compute `extract_features(images)`."""
        return self.extract_features(images)

    def freeze(self) -> Self:
        """Stop all gradients and switch to eval mode."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, because a frozen network uses no batch statistics and no dropout."""
        del mode
        return super().train(False)


class FrozenBackbone:
    """A backbone with its weights and image size chosen; its network is built when it is needed.

    Stored features need only the sizes, which are those of the `Backbone` class, and the weights'
    digest. These are known without reading hundreds of megabytes into a network.
    """

    def __init__(self, kind: type[Backbone], weights: Weights, image_size_px: int) -> None:
        self._kind = kind
        self._image_size_px = image_size_px
        self.weights = weights
        self.name = kind.name
        self.feature_dim = kind.feature_dim
        self.stride = kind.stride
        self.default_num_classes = kind.default_num_classes
        self.inference_batch = kind.inference_batch

    @property
    def random_weights(self) -> bool:
        """Whether the weights are random, so that the features say nothing about images."""
        return self.weights.file is None

    @cached_property
    def network(self) -> Backbone:
        """The frozen network; raises SqueezeError if the weights cannot be read or do not fit."""
        return self._kind(self._image_size_px, self.weights).freeze()

    def head_state(self) -> dict[str, Tensor]:
        """Return the weights of the pretrained segmentation head, empty if there is none."""
        return self._kind.head_state(self.weights)


@contextmanager
def initial_weights(*, random: bool) -> Iterator[None]:
    """Build modules with random weights of a fixed seed, or without memory for weights.

    The state of torch's random numbers is restored afterwards.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if random else "meta"):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        yield
