"""The input of training and evaluation: the feature store, or images where it is turned off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.datamodule import (
    ImageDataset,
    Ranks,
    SegmentationDataModule,
    choose_workers,
)
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.features.extraction import Trunk, from_rows
from squeeze_cli.features.prepare import prepare_states
from squeeze_cli.features.store import FeatureStore, StoreKey, default_cache_dir
from squeeze_cli.features.table import StateDataset

# Vectors per batch that needs no gradients: with fewer, most of its time is not arithmetic.
EVALUATION_VECTORS = 1024


@dataclass(frozen=True)
class StoredStates:
    """Batches from the feature store, a `BatchSource`; opening it computes what is missing."""

    trunk: Trunk
    store: FeatureStore
    reporter: Reporter
    num_workers: int = 0  # a row is a copy: processes would only pass it on

    @property
    def device(self) -> torch.device:
        """The trunk's."""
        return self.trunk.device

    def open(self, splits: Mapping[str, Sequence[Sample]], ranks: Ranks) -> dict[str, StateDataset]:
        """Fill the store, each rank its share, and read the rows of all splits."""
        return prepare_states(splits, self.trunk, self.store, self.reporter, ranks)

    def states(self, inputs: Tensor) -> Tensor:
        """Stored rows as float32 states."""
        return from_rows(inputs.float())


@dataclass(frozen=True)
class ImagesThroughTrunk:
    """Batches of images, which pass the trunk whenever they are met; a `BatchSource`."""

    trunk: Trunk

    @property
    def device(self) -> torch.device:
        """The trunk's."""
        return self.trunk.device

    @property
    def num_workers(self) -> int:
        """The trunk's."""
        return self.trunk.num_workers

    def open(self, splits: Mapping[str, Sequence[Sample]], ranks: Ranks) -> dict[str, ImageDataset]:
        """The images of all splits; there is nothing to prepare."""
        del ranks
        return {
            name: ImageDataset(split, self.trunk.preprocessing) for name, split in splits.items()
        }

    def states(self, inputs: Tensor) -> Tensor:
        """The states of pixels."""
        return self.trunk.states(inputs)


def make_trunk(config: ExperimentConfig, backbone: FrozenBackbone, device: torch.device) -> Trunk:
    """The frozen part of `backbone` that `config` trains on."""
    return Trunk(
        backbone,
        _layer(config),
        Preprocessing(config.data.image_size),
        device,
        config.training.precision,
        choose_workers(config.data.num_workers),
    )


def open_store(config: ExperimentConfig, backbone: FrozenBackbone) -> FeatureStore | None:
    """The store of the states that `config` asks for; None with `--no-cache`."""
    if not config.data.use_cache:
        return None
    preprocessing = Preprocessing(config.data.image_size)
    key = StoreKey.of(backbone, preprocessing, _layer(config), config.training.precision)
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
    """The data module of `splits`: states from `store`, or images where that is None.

    Nothing is computed before its `setup`.
    """
    trunk = make_trunk(config, backbone, device)
    vectors = (config.data.image_size // backbone.stride) ** 2
    batch_size = config.training.batch_size
    return SegmentationDataModule(
        splits,
        ImagesThroughTrunk(trunk) if store is None else StoredStates(trunk, store, reporter),
        batch_size=batch_size,
        evaluation_batch_size=max(batch_size, EVALUATION_VECTORS // max(1, vectors)),
        seed=config.training.seed,
    )


def _layer(config: ExperimentConfig) -> str:
    """The layer whose states are stored: the one before what is trained."""
    return "trunk" if config.model.unfreeze_last_layer else "features"
