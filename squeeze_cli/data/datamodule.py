"""Samples as tensors: the data set, and the Lightning data module over its three splits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from squeeze_cli.data.samples import Sample
from squeeze_cli.data.sampling import EpochBatches
from squeeze_cli.data.splits import SplitSamples
from squeeze_cli.data.transforms import Preprocessing

Item = tuple[Tensor, Tensor, int]
Batch = tuple[Tensor, Tensor, Tensor]


class ImageDataset(Dataset[Item]):
    """Samples, read and preprocessed when asked for.

    `dataset[i]` gives the image [3, S, S] float32, the mask [S, S] uint8 and i itself. The mask
    stays uint8 until its batch is put together: an eighth of the bytes to pass between processes.
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
        return self.convert(image), self.preprocessing.mask_of(trimap), index

    def convert(self, image: Image.Image) -> Tensor:
        """What an item holds of a photograph."""
        return self.preprocessing.image(image)


def collate_items(items: Sequence[Item]) -> Batch:
    """Stack B items: images [B, 3, S, S] float32, masks [B, S, S] int64, indices [B] int64."""
    images, masks, indices = zip(*items, strict=True)
    return torch.stack(images), torch.stack(masks).long(), torch.tensor(indices)


def image_loader(
    dataset: ImageDataset, batch_size: int, *, seed: int, shuffle: bool, num_workers: int
) -> DataLoader[Item]:
    """Batches as `collate_items` makes them, in the order of `EpochBatches`."""
    return DataLoader(
        dataset,
        batch_sampler=EpochBatches(len(dataset), batch_size, seed, shuffle),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=collate_items,
        pin_memory=torch.cuda.is_available(),
    )


class OxfordPetDataModule(LightningDataModule):
    """Batches of images, of Oxford-IIIT Pet or whatever else `splits` holds.

    Each loader gives images [B, 3, H, W] float32, masks [B, H, W] int64 (0 pet, 1 background,
    2 border, 255 ignored) and indices [B] int64 into its split. Training is shuffled by (seed,
    epoch) and never has a batch of a single image (see `EpochBatches`); validation and test keep
    the splits' order.

    Args:
        splits: the three splits.
        preprocessing: how images become tensors.
        batch_size: images in a batch.
        num_workers: processes that read images; 0 reads them in this one.
        seed: of the training order.
    """

    def __init__(
        self,
        splits: SplitSamples,
        preprocessing: Preprocessing,
        batch_size: int,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.splits = splits
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled batches of the training split."""
        return self._loader(self.splits.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Item]:
        """Batches of the validation split, in order."""
        return self._loader(self.splits.val, shuffle=False)

    def test_dataloader(self) -> DataLoader[Item]:
        """Batches of the official test split, in order."""
        return self._loader(self.splits.test, shuffle=False)

    def _loader(self, samples: Sequence[Sample], shuffle: bool) -> DataLoader[Item]:
        return image_loader(
            ImageDataset(samples, self.preprocessing),
            self.batch_size,
            seed=self.seed,
            shuffle=shuffle,
            num_workers=self.num_workers,
        )
