"""The one pass through the backbone: workers decode and preprocess, the trunk runs beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from squeeze_cli.backbones.base import Backbone
from squeeze_cli.data.datamodule import ImageDataset
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing

EXTRACTION_BATCH = 8


def run_trunk(backbone: Backbone, images: Tensor, layer: str) -> Tensor:
    """The state of `layer` for images: `features` (the whole backbone) or `trunk`."""
    return backbone.trunk(images) if layer == "trunk" else backbone.extract_features(images)


def to_rows(state: Tensor) -> Tensor:
    """A batch of states as stored: maps `[B, C, h, w]` become `[B, h, w, C]`, tokens stay."""
    return state.permute(0, 2, 3, 1) if state.dim() == 4 else state


def from_rows(rows: Tensor) -> Tensor:
    """The inverse of `to_rows`: maps come back as `[B, C, h, w]` in channels-last memory."""
    return rows.permute(0, 3, 1, 2) if rows.dim() == 4 else rows


def extract_states(
    backbone: Backbone,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    *,
    layer: str,
    device: torch.device,
    precision: str = "32",
    num_workers: int = 2,
    batch_size: int = EXTRACTION_BATCH,
) -> Iterator[tuple[list[int], NDArray[np.float32], NDArray[np.uint8]]]:
    """Yield (positions in `samples`, states as rows float32, masks `[B, H, W]` uint8) by batches."""
    loader: DataLoader[tuple[Tensor, Tensor, int]] = DataLoader(
        ImageDataset(samples, preprocessing),
        batch_size=batch_size,
        num_workers=min(num_workers, len(samples)),
        pin_memory=device.type == "cuda",
    )
    backbone = backbone.to(device).to(memory_format=torch.channels_last)
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
    with torch.inference_mode(), autocast:
        for images, masks, positions in loader:
            batch = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            rows = to_rows(run_trunk(backbone, batch, layer)).float().cpu().contiguous()
            yield positions.tolist(), rows.numpy(), masks.numpy()
