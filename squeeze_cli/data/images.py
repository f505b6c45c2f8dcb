"""Data sets of samples as tensors, and the number of workers that read them."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing

Item = tuple[Tensor, Tensor, int]

# More decoding workers would only take processor time from the backbone.
MOST_WORKERS = 8
# Worker processes pass batches to this process in files here; Docker's default size is 64 MB.
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, eq=False)
class SampleDataset(Dataset[Item]):
    """Data set of samples with known `facts`, each by two functions of the sample.

    `dataset[i]` returns `inputs` of sample i, its `classes` `[H, W]` uint8, and i itself.
    """

    samples: Sequence[Sample]
    inputs: Callable[[Sample], Tensor]
    classes: Callable[[Sample], Tensor]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        sample = self.samples[index]
        return self.inputs(sample), self.classes(sample), index


def read_pixels(sample: Sample, preprocessing: Preprocessing) -> Tensor:
    """Read and resize an image to `[H, W, 3]` uint8; raises UnreadableImageError."""
    return preprocessing.pixels(sample.read().decode())


def label_plane(sample: Sample, preprocessing: Preprocessing) -> Tensor:
    """Return the classes `[H, W]` uint8 of a sample whose `facts` are known.

    Without labels the image's pixels have class 0. Padding always is IGNORE_INDEX.
    """
    if sample.labels is not None:
        return preprocessing.mask(Image.fromarray(sample.labels.plane()))
    return preprocessing.mask(Image.new("L", sample.known().size_px))


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def workers_with_room(workers: int, batch_bytes: int) -> int:
    """Return the number of worker processes whose batches fit in shared memory, at most `workers`.

    Each worker prefetches two batches in each of two loaders.
    """
    if not workers or not SHARED_MEMORY.is_dir():  # macOS and Windows share memory in another way
        return workers
    return min(workers, shutil.disk_usage(SHARED_MEMORY).free // (4 * batch_bytes))


def choose_workers(given: int | None) -> int:
    """Return the number of decoding workers: as given, or one per core up to `MOST_WORKERS`."""
    return given if given is not None else min(MOST_WORKERS, available_cores())
