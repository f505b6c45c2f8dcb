"""The one pass through the backbone: worker processes decode, threads run the trunk beside them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from squeeze_cli.backbones.base import Backbone
from squeeze_cli.data.datamodule import ImageDataset
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing

States = tuple[list[int], NDArray[np.float32], NDArray[np.uint8]]
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class PixelDataset(ImageDataset):
    """An `ImageDataset` of pixels `[S, S, 3]` uint8: a quarter of the bytes between processes."""

    def convert(self, image: Image.Image) -> Tensor:
        """Pixels that are yet to be normalized."""
        return self.preprocessing.pixels(image)


def trunk_autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a backbone computes in `precision`, `32` or `bf16`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def run_trunk(backbone: Backbone, images: Tensor, layer: str) -> Tensor:
    """The state of `layer` for images: `features` (the whole backbone) or `trunk`."""
    return backbone.trunk(images) if layer == "trunk" else backbone.extract_features(images)


def for_inference(backbone: Backbone, device: torch.device, precision: str) -> Backbone:
    """The backbone on `device` as it is quickest in `precision`: the same up to rounding."""
    backbone = backbone.to(device).to(memory_format=torch.channels_last)
    if device.type == "cuda" and precision == "32":  # else its convolutions keep 11 bits
        torch.backends.cudnn.allow_tf32 = False
    return backbone


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
) -> Iterator[States]:
    """Yield (positions in `samples`, states as rows float32, masks `[B, H, W]` uint8) by batches."""
    loader: DataLoader[Any] = DataLoader(
        PixelDataset(samples, preprocessing),
        batch_size=backbone.inference_batch,
        num_workers=min(num_workers, len(samples)),
        pin_memory=device.type == "cuda",
    )
    backbone = for_inference(backbone, device, precision)

    def run(batch: tuple[Tensor, Tensor, Tensor]) -> States:
        pixels, masks, positions = batch
        with torch.inference_mode(), trunk_autocast(device, precision):
            images = preprocessing.normalize(pixels.to(device, non_blocking=True))
            rows = to_rows(run_trunk(backbone, images, layer)).float().cpu().contiguous()
        return positions.tolist(), rows.numpy(), masks.numpy()

    with _threads(device) as (pool, count):
        yield from _in_order(pool, run, loader, count + 1)


@contextmanager
def _threads(device: torch.device) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads for the trunk: on a CPU one a core, each with batches of its own.

    Threads that share a batch wait for each other at every layer, and all of them whenever one
    gives its core to a decoding process. Each by itself keeps its core busy.
    """
    cores = torch.get_num_threads()
    count = cores if device.type == "cpu" else 1
    with ThreadPoolExecutor(
        count, initializer=torch.set_num_threads, initargs=(cores // count,)
    ) as pool:
        try:
            yield pool, count
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(cores)  # for the threads that are yet to come


def _in_order(
    pool: ThreadPoolExecutor,
    function: Callable[[_Given], _Made],
    items: Iterable[_Given],
    ahead: int,
) -> Iterator[_Made]:
    """`map` in the pool, at most `ahead` items in work or finished and not yet taken."""
    waiting: deque[Future[_Made]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
