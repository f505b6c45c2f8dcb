"""Lightning data module: batches of stored states, or of images that pass the trunk per batch."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from pathlib import Path

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

from squeeze_cli.backbones.base import FeatureOrigin, FrozenBackbone
from squeeze_cli.config.schema import ExperimentConfig, TrainingConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.images import (
    SHARED_MEMORY,
    Item,
    SampleDataset,
    label_plane,
    read_pixels,
    workers_with_room,
)
from squeeze_cli.data.reading import warn_of_skipped
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.prepare import (
    Ranks,
    ReadResult,
    Trunk,
    check_images,
    from_rows,
    prepare_states,
    require_finite,
)
from squeeze_cli.features.store import FeatureStore, StoreKey, default_cache_dir

Batch = tuple[Tensor, Tensor, Tensor]

# torch's sampler seeds an epoch by the sum of seed and epoch. With seeds multiplied by this distance,
# no two seeds share the order of any epoch.
SEED_DISTANCE = 1_000_003
# Limits on vectors and values of a batch without gradients: small batches cost calls, large ones memory,
# which the C library returns to the system after each operation if it is 32 MiB or more.
EVALUATION_VECTORS = 8192
EVALUATION_VALUES = 2**23


class FeatureBatches(LightningDataModule):
    """Base: batches of (states, label planes `[B, H, W]` uint8, positions `[B]` int64) of each split.

    The training order depends on seed and epoch only, so a resumed run continues the order of an
    uninterrupted one; validation and test keep the splits' order. A subclass opens the data sets in
    `setup`, and turns their inputs into `states`.

    Args:
        splits: samples of each split.
        origin: origin of the features.
        training: number of images per step, and the seed.
        device: device that computes the batches.
        reporter: receives warnings, such as of images that cannot be read.

    Attributes:
        batch_size: images per training step and process.
        evaluation_batch_size: images per batch in validation and test.
        num_workers: processes that load items.
        splits: samples of each split; after `setup` only the readable ones, with their facts.
        skipped: (name, reason) of the unreadable samples, after `setup`.
        setup_seconds: duration of `setup`.
        test_split: the split that `Trainer.test` measures.
    """

    def __init__(
        self, splits: Mapping[str, Sequence[Sample]], origin: FeatureOrigin,
        training: TrainingConfig, device: torch.device, reporter: Reporter,
    ) -> None:  # fmt: skip
        super().__init__()
        self.splits = dict(splits)
        self.skipped: list[tuple[str, str]] = []
        self.device = device
        self.reporter = reporter
        self.origin = origin
        self.batch_size, self.seed = training.batch_size, training.seed
        most_vectors = min(EVALUATION_VECTORS, EVALUATION_VALUES // origin.feature_dim)
        most_images = min(origin.evaluation_images, most_vectors // origin.vectors_per_image)
        self.evaluation_batch_size = max(self.batch_size, most_images)
        self.num_workers = 0
        self.setup_seconds = 0.0
        self.test_split = "test"
        self._datasets: dict[str, SampleDataset] = {}

    @property
    def ranks(self) -> Ranks:
        """The processes of the trainer, or this process alone without a trainer."""
        if (trainer := self.trainer) is None:
            return Ranks()
        strategy = trainer.strategy

        def agree(value: object) -> bool:
            return strategy.reduce_boolean_decision(strategy.broadcast(value) == value)

        return Ranks(trainer.global_rank, trainer.world_size, strategy.barrier, agree)

    def train_dataloader(self) -> DataLoader[Item]:
        """Return a loader of this rank's share of the training split in the epoch's order."""
        dataset, ranks = self._datasets["train"], self.ranks
        sampler: DistributedSampler[Item] = DistributedSampler(
            dataset, ranks.count, ranks.rank, seed=self.seed * SEED_DISTANCE
        )
        # BatchNorm cannot train on a single image: a last batch of one image is left out, which holds
        # another image in each epoch.
        single = len(sampler) > 1 and len(sampler) % self.batch_size == 1
        return self._loader(dataset, self.batch_size, sampler=sampler, drop_last=single)

    def val_dataloader(self) -> DataLoader[Item]:
        """Return a loader of this rank's share of the validation split."""
        return self.evaluation_dataloader("val")

    def test_dataloader(self) -> DataLoader[Item]:
        """Return a loader of this rank's share of `test_split`."""
        return self.evaluation_dataloader(self.test_split)

    def evaluation_dataloader(self, split: str) -> DataLoader[Item]:
        """Return a loader of this rank's share of a split in order.

        Shares may differ by one image, because `DistributedSampler` would repeat images.
        """
        share = range(self.ranks.rank, len(self.splits[split]), self.ranks.count)
        return self._loader(Subset(self._datasets[split], share), self.evaluation_batch_size)

    def batches(
        self, split: str, batch_size: int | None = None, *, shuffled: bool = False
    ) -> Iterator[Batch]:
        """Yield batches of all images of a split, on the device, outside a trainer, after `setup`."""
        dataset = self._datasets[split]
        generator = torch.Generator().manual_seed(self.seed)
        sampler = RandomSampler(dataset, generator=generator) if shuffled else None
        loader = self._loader(dataset, batch_size or self.evaluation_batch_size, sampler=sampler)
        return (self._on_device(batch, split) for batch in loader)

    def batch(self, split: str, positions: Sequence[int]) -> Batch:
        """Return a batch, as `batches` yields it, of the images at these positions of a split."""
        dataset = self._datasets[split]
        loaded = default_collate([dataset[position] for position in positions])
        return self._on_device(loaded, split)

    def counted(self, split: str, positions: Tensor, grid: tuple[int, int] | torch.Size) -> Tensor:
        """Return which vectors of a split's images are not padding, `[B, h, w]` bool: here all."""
        del split
        return torch.ones(len(positions), *grid, dtype=torch.bool, device=positions.device)

    def open_datasets(
        self, inputs: Callable[[Sample], Tensor], classes: Callable[[Sample], Tensor]
    ) -> None:
        """Open the data sets of all splits, by the input and the label plane of a sample."""
        if not self._datasets:
            self.warn_of_copies()
        self._datasets = {
            name: SampleDataset(split, inputs, classes) for name, split in self.splits.items()
        }

    def warn_of_copies(self) -> None:
        """Warn of samples of equal content in two splits."""
        earlier: dict[str, str] = {}
        for name, split in self.splits.items():
            contents = [sample.digest().partition(" ")[0] for sample in split]
            if copied := [earlier[each] for each in contents if each in earlier]:
                places = " and ".join(sorted(set(copied)))
                self.reporter.warn(
                    f"{len(copied)} samples of {name} are copies of samples of {places}: metrics on them "
                    "are too optimistic; remove the copies, or give the splits by --split-file."
                )
            earlier |= {each: name for each in contents if each not in earlier}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn the inputs of a batch, which is on the device, into states."""
        inputs, masks, positions = batch
        with torch.no_grad():
            return self.states(inputs), masks, positions

    def states(self, inputs: Tensor) -> Tensor:
        """Return the states of inputs, which are stored states or given features."""
        return from_rows(inputs.float())

    def _on_device(self, loaded: Batch, split: str) -> Batch:
        inputs, masks, positions = (tensor.to(self.device) for tensor in loaded)
        batch: Batch = self.on_after_batch_transfer((inputs, masks, positions), 0)
        require_finite(batch[0], [self.splits[split][i].name for i in positions.tolist()])
        return batch

    def _loader(
        self, dataset: Dataset[Item], batch_size: int, sampler: Iterable[object] | None = None,
        drop_last: bool = False,
    ) -> DataLoader[Item]:  # fmt: skip
        return DataLoader(
            dataset, batch_size, sampler=sampler, drop_last=drop_last,
            num_workers=self.num_workers, persistent_workers=self.num_workers > 0,
            pin_memory=self.device.type == "cuda",
        )  # fmt: skip


class SegmentationDataModule(FeatureBatches):
    """Batches of images, whose states are stored, or computed when a batch reaches the device."""

    def __init__(
        self, splits: Mapping[str, Sequence[Sample]], trunk: Trunk, store: FeatureStore | None,
        training: TrainingConfig, reporter: Reporter,
    ) -> None:  # fmt: skip
        super().__init__(splits, trunk.backbone, training, trunk.device, reporter)
        self.trunk = trunk
        self.store = store
        # Worker processes decode images. With stored states they would only copy rows.
        workers = trunk.num_workers if store is None else 0
        batch_bytes = self.evaluation_batch_size * prod(trunk.preprocessing.size_px) * 4
        self.num_workers = workers_with_room(workers, batch_bytes)
        if self.num_workers < workers:
            reporter.warn(
                f"{SHARED_MEMORY} has room for {self.num_workers} of {workers} processes that read "
                "images: fewer are slower; make it larger, as by `docker run --shm-size 1g`."
            )

    def setup(self, stage: str = "") -> None:
        """Read the images of all splits once, fill the store, and open the data sets.

        Unreadable images are removed from their splits. Raises SqueezeError where a split becomes empty,
        or processes disagree on which images are readable.
        """
        del stage  # all splits together, so that the backbone is loaded once
        if self._datasets:
            return
        start = time.perf_counter()
        samples = [sample for split in self.splits.values() for sample in split]
        preprocessing = self.trunk.preprocessing
        classes: Callable[[Sample], Tensor] = partial(label_plane, preprocessing=preprocessing)
        if self.store is None:
            self._keep(check_images(samples, self.trunk, self.reporter))
            self.open_datasets(partial(read_pixels, preprocessing=preprocessing), classes)
        else:
            results, states = prepare_states(
                samples, self.trunk, self.store, self.reporter, self.ranks
            )
            self._keep(results)
            if states is not self.store:  # they are held in memory, and so are the planes
                readable = [each.sample for each in results if each.reason is None]
                with ThreadPoolExecutor() as pool:
                    planes = dict(zip(readable, pool.map(classes, readable), strict=True))
                classes = planes.__getitem__
            self.open_datasets(lambda each: torch.from_numpy(states[each.known().digest]), classes)
        self.setup_seconds = time.perf_counter() - start

    def _keep(self, results: Sequence[ReadResult]) -> None:
        """Keep the readable samples in their splits, and report the others.

        Raises SqueezeError in all processes where they disagree, because they would wait for one another.
        """
        if not self.ranks.agree([each.reason is None for each in results]):
            raise SqueezeError(
                "An image could be read by some processes and not by others: check the disk or network "
                "that holds the images, and start again."
            )
        ambiguous = sum(each.sample.known().ambiguous for each in results if each.reason is None)
        if ambiguous:
            self.reporter.warn(
                f"{ambiguous} images fit their masks with and without their EXIF orientation: it is "
                "applied, as a viewer does."
            )
        found = iter(results)
        for name, split in self.splits.items():
            read = [next(found) for _ in split]
            self.splits[name] = [each.sample for each in read if each.reason is None]
            self.skipped += [(each.sample.name, each.reason) for each in read if each.reason]
            if split and not self.splits[name]:
                where = f" of {name}" if name in ("train", "val", "test") else ""
                raise SqueezeError(f"No image{where} can be read, such as {self.skipped[-1][1]}")
        warn_of_skipped(self.skipped, self.reporter)

    def counted(self, split: str, positions: Tensor, grid: tuple[int, int] | torch.Size) -> Tensor:
        """Return which vectors of a split's images are not padding, `[B, h, w]` bool."""
        return self.trunk.counted([self.splits[split][i] for i in positions.tolist()], grid)

    def states(self, inputs: Tensor) -> Tensor:
        """Return the states of inputs, which are stored states or images."""
        return self.trunk.states(inputs) if self.store is None else super().states(inputs)


def make_trunk(
    config: ExperimentConfig, backbone: FrozenBackbone, device: torch.device, num_workers: int
) -> Trunk:
    """Return the part of a backbone that is frozen, with the preprocessing and precision of `config`."""
    layer = f"layer {','.join(map(str, backbone.layers))}" if backbone.layers else "features"
    return Trunk(
        backbone, "trunk" if config.model.unfreeze_last_layer else layer,
        Preprocessing(config.data.size_px, config.data.fit, backbone.statistics), device,
        config.training.precision, num_workers, config.model.use_kernels,
    )  # fmt: skip


def open_store(config: ExperimentConfig, trunk: Trunk) -> FeatureStore | None:
    """Open the store of a trunk's states; None with `--no-cache`."""
    if not config.data.use_cache:
        return None
    key = StoreKey(
        trunk.backbone.name, trunk.backbone.weights.digest, trunk.layer, trunk.preprocessing.key(),
        trunk.precision, trunk.fused,
    )  # fmt: skip
    cache_dir = Path(config.data.cache_dir) if config.data.cache_dir else default_cache_dir()
    return FeatureStore(cache_dir, key)
