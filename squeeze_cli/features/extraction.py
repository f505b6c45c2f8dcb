"""The one pass of images through the frozen trunk of a backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.data.datamodule import ImageDataset, Item
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing

States = tuple[list[int], NDArray[np.float32], NDArray[np.uint8]]


@dataclass(frozen=True)
class Trunk:
    """The frozen part of a backbone, with all that decides how an image passes it.

    `layer` is `features` (the whole backbone) or `trunk` (all but its last layer), `precision` is
    `32` or `bf16` (autocast). The network is built when the first image comes; `num_workers`
    processes decode images.
    """

    backbone: FrozenBackbone
    layer: str
    preprocessing: Preprocessing
    device: torch.device
    precision: str = "32"
    num_workers: int = 0

    def states(self, pixels: Tensor) -> Tensor:
        """Return the states, float32, of pixels `[B, S, S, 3]` uint8 on the device: maps or tokens."""
        network = self.backbone.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = self.preprocessing.normalize(pixels)
        half = self.precision == "bf16"
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half),
            # cuDNN's convolutions of float32 keep 11 bits of it unless told otherwise.
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            run = network.trunk if self.layer == "trunk" else network.extract_features
            return run(images).float()  # type: ignore[no-any-return]

    def extract(self, samples: Sequence[Sample]) -> Iterator[States]:
        """Yield (positions in `samples`, states as rows float32, masks `[B, H, W]` uint8)."""
        loader: DataLoader[Item] = DataLoader(
            ImageDataset(samples, self.preprocessing),
            batch_size=self.backbone.inference_batch,
            num_workers=min(self.num_workers, len(samples)),
            pin_memory=self.device.type == "cuda",
        )
        for pixels, masks, positions in loader:
            states = self.states(pixels.to(self.device, non_blocking=True))
            rows = states.permute(0, 2, 3, 1) if states.dim() == 4 else states
            yield positions.tolist(), rows.cpu().contiguous().numpy(), masks.numpy()


def from_rows(rows: Tensor) -> Tensor:
    """Return stored rows as states: maps `[B, h, w, C]` become `[B, C, h, w]`, tokens stay."""
    return rows.permute(0, 3, 1, 2) if rows.dim() == 4 else rows
