"""Samples as tensors, and the processes that read them."""

import os
from collections.abc import Sequence

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing

Item = tuple[Tensor, Tensor, int]

# More decoding workers than this only take time from a backbone that is not much faster.
MOST_WORKERS = 8


class ImageDataset(Dataset[Item]):
    """Samples, read and resized when asked for.

    `dataset[i]` gives the pixels `[H, W, 3]` uint8, the mask `[H, W]` uint8 and i itself, or raises
    UnreadableImageError. Pixels are normalized on the device, a quarter of the bytes to move.
    """

    def __init__(self, samples: Sequence[Sample], preprocessing: Preprocessing) -> None:
        self.samples = tuple(samples)
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        image, mask = self.samples[index].load()
        if mask is None:  # all of the picture counts, and no padding
            mask = Image.new("L", image.size)
        return self.preprocessing.pixels(image), self.preprocessing.mask(mask), index


def available_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_workers(wanted: int | None) -> int:
    """Worker processes for decoding images: as asked, or one per core up to `MOST_WORKERS`."""
    return wanted if wanted is not None else min(MOST_WORKERS, available_cores())
