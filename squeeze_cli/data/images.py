"""Samples as tensors, and the threads or processes that read them."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing

Item = tuple[Tensor, Tensor, int]

# More decoding workers than this only take time from a backbone that is not much faster.
MOST_WORKERS = 8
# Worker processes give their batches to this one in files here; Docker's default has 64 MB of room.
SHARED_MEMORY = Path("/dev/shm")


class ImageDataset(Dataset[Item]):
    """Samples, read and resized when asked for; `facts` of all are known.

    `dataset[i]` gives the pixels `[H, W, 3]` uint8, the classes `[H, W]` uint8 and i itself, or raises
    UnreadableImageError. Pixels are normalized on the device, a quarter of the bytes to move.
    """

    def __init__(self, samples: Sequence[Sample], preprocessing: Preprocessing) -> None:
        self.samples = tuple(samples)
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        sample = self.samples[index]
        pixels = self.preprocessing.pixels(sample.read().decode())
        return pixels, label_plane(sample, self.preprocessing), index


def label_plane(sample: Sample, preprocessing: Preprocessing) -> Tensor:
    """Return the classes `[H, W]` uint8 of a sample whose `facts` are known.

    Without labels they are 0 on the image; padding is IGNORE_INDEX with and without.
    """
    if sample.labels is not None:
        return preprocessing.mask(Image.fromarray(sample.labels.plane()))
    return preprocessing.mask(Image.new("L", sample.known().size_px))


def available_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def workers_with_room(workers: int, batch_bytes: int) -> int:
    """Return how many of the worker processes have room for their batches in shared memory.

    Each has two batches ready, in each of two loaders.
    """
    if not workers or not SHARED_MEMORY.is_dir():  # macOS and Windows have other means
        return workers
    return min(workers, shutil.disk_usage(SHARED_MEMORY).free // (4 * batch_bytes))


def choose_workers(wanted: int | None) -> int:
    """Return how many images are decoded at once: as asked, or one per core up to `MOST_WORKERS`."""
    return wanted if wanted is not None else min(MOST_WORKERS, available_cores())
