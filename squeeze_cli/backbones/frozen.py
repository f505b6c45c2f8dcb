"""A backbone whose network is built only when an image must pass it."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from squeeze_cli.backbones.base import Backbone
from squeeze_cli.backbones.weights import Weights


class FrozenBackbone:
    """A backbone with its weights and image size chosen, and its network not built yet.

    Stored features and codecs need only the sizes and the weights' digest, which are known without
    reading hundreds of megabytes into a network.

    Attributes:
        weights: where its weights come from.
        name, feature_dim, stride, default_num_classes, inference_batch: those of its `Backbone` class.
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
        return self._kind.head_state(self.weights.read() or {})
