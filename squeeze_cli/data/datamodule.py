"""Samples as tensors: the data set of images, and the Lightning data module over all splits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Subset,
    default_collate,
)

from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing

Item = tuple[Tensor, Tensor, int]
Batch = tuple[Tensor, Tensor, Tensor]

# More decoding workers than this only take time from a backbone that is not much faster.
MOST_WORKERS = 8
# torch's sampler seeds an epoch by the sum of seed and epoch. With seeds this far apart, no two
# seeds share the order of any epoch.
SEED_DISTANCE = 1_000_003


class ImageDataset(Dataset[Item]):
    """Samples, read and resized when asked for.

    `dataset[i]` gives the pixels `[S, S, 3]` uint8, the mask `[S, S]` uint8 and i itself; pixels
    are normalized on the device (`Preprocessing.normalize`), a quarter of the bytes to move.
    A sample without a trimap has IGNORE_INDEX everywhere.

    Raises (when indexed):
        UnreadableImageError: naming the file.
    """

    def __init__(self, samples: Sequence[Sample], preprocessing: Preprocessing) -> None:
        self.samples = tuple(samples)
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        image, trimap = self.samples[index].load()
        return self.preprocessing.pixels(image), self.preprocessing.mask(trimap), index


def _no_barrier() -> None:
    """Wait for nobody."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train together: this one's rank, their number, and their barrier."""

    rank: int = 0
    count: int = 1
    barrier: Callable[[], None] = _no_barrier


class BatchSource(Protocol):
    """Origin of a data module's batches: the feature store, or images and the frozen trunk."""

    @property
    def device(self) -> torch.device:
        """The device on which batches are used."""

    @property
    def num_workers(self) -> int:
        """Processes that read items; 0 reads them in this one."""

    def open(
        self, splits: Mapping[str, Sequence[Sample]], ranks: Ranks
    ) -> Mapping[str, Dataset[Item]]:
        """Prepare what is missing, each rank its share, and give the splits' data sets."""

    def states(self, inputs: Tensor) -> Tensor:
        """The trunk's states, float32, of the first tensor of a batch on the device."""


class SegmentationDataModule(LightningDataModule):
    """Batches of (states, masks `[B, H, W]` uint8, positions `[B]` int64) of every split.

    States are what the frozen trunk gives: stored, or computed when a batch reaches the device.
    Training is shuffled by seed and epoch alone, so a resumed run continues the order of an
    unbroken one; validation and test keep the splits' order.

    Args:
        splits: samples by the split's name.
        source: origin of the batches.
        batch_size: images per training step and process.
        evaluation_batch_size: images per batch where nothing is trained.
        seed: seed of the training order.

    Attributes:
        setup_seconds: time that `setup` took to open the data sets.
        test_split: the split that `Trainer.test` measures.
    """

    def __init__(
        self,
        splits: Mapping[str, Sequence[Sample]],
        source: BatchSource,
        *,
        batch_size: int,
        evaluation_batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.splits = splits
        self.source = source
        self.batch_size = batch_size
        self.evaluation_batch_size = evaluation_batch_size
        self.seed = seed
        self.setup_seconds = 0.0
        self.test_split = "test"
        self._datasets: Mapping[str, Dataset[Item]] = {}

    @property
    def ranks(self) -> Ranks:
        """The processes of the trainer; this one alone where there is no trainer."""
        if self.trainer is None:
            return Ranks()
        trainer = self.trainer
        return Ranks(trainer.global_rank, trainer.world_size, trainer.strategy.barrier)

    def setup(self, stage: str = "") -> None:
        """Open the data sets of all splits, once; this fills the feature store."""
        del stage  # all splits together, so that the backbone is loaded once
        if not self._datasets:
            start = time.perf_counter()
            self._datasets = self.source.open(self.splits, self.ranks)
            self.setup_seconds = time.perf_counter() - start

    def train_dataloader(self) -> DataLoader[Item]:
        """This rank's share of the training split in the order of the epoch."""
        dataset, ranks = self._datasets["train"], self.ranks
        sampler: DistributedSampler[Item] = DistributedSampler(
            dataset, ranks.count, ranks.rank, seed=self.seed * SEED_DISTANCE
        )
        # BatchNorm cannot train on a single image: such a last batch is left out, another image's
        # in every epoch.
        single = len(sampler) > 1 and len(sampler) % self.batch_size == 1
        return self._loader(dataset, self.batch_size, sampler=sampler, drop_last=single)

    def val_dataloader(self) -> DataLoader[Item]:
        """This rank's share of the validation split."""
        return self.evaluation_dataloader("val")

    def test_dataloader(self) -> DataLoader[Item]:
        """This rank's share of `test_split`."""
        return self.evaluation_dataloader(self.test_split)

    def evaluation_dataloader(self, split: str) -> DataLoader[Item]:
        """This rank's share of a split in order.

        Shares may differ by one image: `DistributedSampler` would count some images twice.
        """
        dataset, ranks = self._datasets[split], self.ranks
        share = range(ranks.rank, len(self.splits[split]), ranks.count)
        return self._loader(Subset(dataset, share), self.evaluation_batch_size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn the inputs of a batch, which is on the device, into states."""
        del dataloader_idx
        inputs, masks, positions = batch
        with torch.no_grad():
            return self.source.states(inputs), masks, positions

    def batches(
        self, split: str, batch_size: int | None = None, *, shuffled: bool = False
    ) -> Iterator[Batch]:
        """Batches of a whole split on the device, outside a trainer; `setup` comes first."""
        dataset = self._datasets[split]
        generator = torch.Generator().manual_seed(self.seed)
        sampler = RandomSampler(dataset, generator=generator) if shuffled else None  # type: ignore[arg-type]
        loader = self._loader(dataset, batch_size or self.evaluation_batch_size, sampler=sampler)
        return map(self._on_device, loader)

    def batch(self, split: str, positions: Sequence[int]) -> Batch:
        """One batch, as those of `batches`, of the images at these positions of a split."""
        dataset = self._datasets[split]
        return self._on_device(default_collate([dataset[position] for position in positions]))

    def _on_device(self, batch: Batch) -> Batch:
        inputs, masks, positions = (tensor.to(self.source.device) for tensor in batch)
        return self.on_after_batch_transfer((inputs, masks, positions), 0)

    def _loader(self, dataset: Dataset[Item], batch_size: int, **options: Any) -> DataLoader[Item]:
        workers = self.source.num_workers
        return DataLoader(
            dataset,
            batch_size=batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.source.device.type == "cuda",
            **options,
        )


def available_cores() -> int:
    """Number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def choose_workers(wanted: int | None) -> int:
    """Worker processes for decoding images: as asked, or one per core up to `MOST_WORKERS`."""
    return wanted if wanted is not None else min(MOST_WORKERS, available_cores())
