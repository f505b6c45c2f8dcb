"""What every backbone is: a frozen network from images to a dense feature map.

    images [B, 3, H, W] --trunk--> state --last_layer--> features [B, C, h, w]

The cut before the last layer serves `--unfreeze-last-layer`: the trunk stays frozen, so that its
output can be stored like features, and only the last layer is trained.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from squeeze_cli.config import ModelConfig

# Random weights are for tests: one fixed seed, so that all runs "with random features" share them.
RANDOM_WEIGHTS_SEED = 0


class Backbone(nn.Module):
    """Base of all backbones: frozen means no gradient and eval mode, also after `.train()`."""

    name: str
    feature_dim: int
    stride: int
    default_num_classes: int
    # Images that pass through it at once: more keep a GPU busy, fewer the processor's cache warm.
    inference_batch: int = 8

    def __init__(self, *, random_weights: bool) -> None:
        super().__init__()
        self.random_weights = random_weights
        self.last_layer: nn.Module = nn.Identity()

    @classmethod
    @abstractmethod
    def from_config(cls, config: ModelConfig, image_size_px: int) -> Self:
        """Build with the weights that `config` names; see `create_backbone` for errors."""

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

    def weights_digest(self) -> str:
        """Hex SHA-256 over the name, shape, type and SHA-256 of every weight and buffer."""
        digest = hashlib.sha256()
        state = self.state_dict()
        with ThreadPoolExecutor() as pool:  # hashing lets other threads run
            for (name, tensor), content in zip(
                state.items(), pool.map(_sha256, state.values()), strict=True
            ):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + content)
        return digest.hexdigest()


def _sha256(tensor: Tensor) -> bytes:
    content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(content.data).digest()


@contextmanager
def random_weights_seed() -> Iterator[None]:
    """Within the block torch's random numbers are those of `RANDOM_WEIGHTS_SEED`; then as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        yield
