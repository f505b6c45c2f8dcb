"""The input of training and evaluation: the feature store, or images where it is turned off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.datamodule import (
    ImageDataset,
    Item,
    Ranks,
    SegmentationDataModule,
    choose_workers,
)
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.features.prepare import Trunk, from_rows, prepare_states
from squeeze_cli.features.store import FeatureStore, StoreKey, default_cache_dir

# Vectors per batch that needs no gradients: with fewer, most of its time is not arithmetic.
EVALUATION_VECTORS = 1024


@dataclass(frozen=True)
class FrozenStates:
    """Batches of the trunk's states, a `BatchSource`: from `store`, which `open` fills, or from
    images that pass the trunk whenever they are met."""

    trunk: Trunk
    store: FeatureStore | None
    reporter: Reporter

    @property
    def device(self) -> torch.device:
        """Device on which the trunk runs and batches are used."""
        return self.trunk.device

    @property
    def num_workers(self) -> int:
        """Processes that decode images; a stored row is a copy, which they would only pass on."""
        return self.trunk.num_workers if self.store is None else 0

    def open(
        self, splits: Mapping[str, Sequence[Sample]], ranks: Ranks
    ) -> Mapping[str, Dataset[Item]]:
        """Fill the store, each rank its share, and give the rows, or the images, of all splits."""
        if self.store is not None:
            return prepare_states(splits, self.trunk, self.store, self.reporter, ranks)
        preprocessing = self.trunk.preprocessing
        return {name: ImageDataset(split, preprocessing) for name, split in splits.items()}

    def states(self, inputs: Tensor) -> Tensor:
        """Return stored rows, or pixels, as float32 states."""
        return self.trunk.states(inputs) if self.store is None else from_rows(inputs.float())


def open_store(config: ExperimentConfig, backbone: FrozenBackbone) -> FeatureStore | None:
    """Open the store of the states that `config` asks for; None with `--no-cache`."""
    if not config.data.use_cache:
        return None
    key = StoreKey(
        backbone.name,
        backbone.weights.digest,
        _layer(config),
        Preprocessing(config.data.image_size).key(),
        config.training.precision,
    )
    cache_dir = Path(config.data.cache_dir) if config.data.cache_dir else default_cache_dir()
    return FeatureStore(cache_dir, key)


def make_data(
    config: ExperimentConfig,
    splits: Mapping[str, Sequence[Sample]],
    backbone: FrozenBackbone,
    store: FeatureStore | None,
    device: torch.device,
    reporter: Reporter,
) -> SegmentationDataModule:
    """Return the data module of `splits`: states from `store`, or images where that is None."""
    trunk = Trunk(
        backbone,
        _layer(config),
        Preprocessing(config.data.image_size),
        device,
        config.training.precision,
        choose_workers(config.data.num_workers),
    )
    vectors = (config.data.image_size // backbone.stride) ** 2
    batch_size = config.training.batch_size
    return SegmentationDataModule(
        splits,
        FrozenStates(trunk, store, reporter),
        batch_size=batch_size,
        evaluation_batch_size=max(batch_size, EVALUATION_VECTORS // max(1, vectors)),
        seed=config.training.seed,
    )


def _layer(config: ExperimentConfig) -> str:
    """Return the layer whose states are stored: the one before what is trained."""
    return "trunk" if config.model.unfreeze_last_layer else "features"
