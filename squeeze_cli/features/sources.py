"""What the trainer reads: states from the store, or images where the store is turned off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from squeeze_cli.backbones.base import Backbone
from squeeze_cli.backbones.frozen import FrozenBackbone
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.datamodule import ImageDataset, collate_items, image_loader
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.features.extraction import run_trunk
from squeeze_cli.features.prepare import prepare_states
from squeeze_cli.features.store import FeatureStore, StoreKey, default_cache_dir
from squeeze_cli.features.table import state_loader
from squeeze_cli.training.devices import choose_workers

# Of a batch that needs no gradients: with fewer vectors, most of its time is not arithmetic.
EVALUATION_VECTORS = 1024


@dataclass(frozen=True)
class Sources:
    """Where batches come from.

    Attributes:
        datasets: for each split; items by lists of positions.
        trunk: what turns a batch's inputs into states; None where they are states already.
        num_workers: processes that read images; 0 for states.
    """

    datasets: dict[str, Any]
    trunk: nn.Module | None
    num_workers: int

    def loader(
        self, split: str, batch_size: int, *, seed: int = 0, shuffle: bool = False
    ) -> DataLoader[Any]:
        """Batches of (inputs, masks, positions) of a split."""
        dataset = self.datasets[split]
        if self.trunk is None:
            return state_loader(dataset, batch_size, seed=seed, shuffle=shuffle)
        return image_loader(
            dataset, batch_size, seed=seed, shuffle=shuffle, num_workers=self.num_workers
        )

    def batch(self, split: str, positions: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """One batch, as the loader gives them, of the images at these positions of the split."""
        dataset = self.datasets[split]
        if self.trunk is None:
            states: tuple[Tensor, Tensor, Tensor] = dataset[positions]
            return states
        return collate_items([dataset[position] for position in positions])

    @torch.no_grad()
    def states(
        self, split: str, batch_size: int, seed: int, device: torch.device
    ) -> Iterator[Tensor]:
        """States of a split in a random order of its own, on `device`: for the initialization."""
        for inputs, _, _ in self.loader(split, batch_size, seed=seed, shuffle=True):
            inputs = inputs.to(device)
            yield inputs if self.trunk is None else self.trunk.to(device)(inputs)


def evaluation_batch_size(config: ExperimentConfig, backbone: FrozenBackbone) -> int:
    """Images a batch where nothing is trained: the training's batch or more."""
    vectors = (config.data.image_size // backbone.stride) ** 2
    return max(config.training.batch_size, EVALUATION_VECTORS // max(1, vectors))


class Trunk(nn.Module):
    """The frozen part of a backbone as a module: images to states of a layer."""

    def __init__(self, backbone: Backbone, layer: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` to states."""
        return run_trunk(self.backbone, images, self.layer)


def open_store(config: ExperimentConfig, backbone: FrozenBackbone) -> FeatureStore | None:
    """Where the states that `config` asks for are kept; None with `--no-cache`."""
    if not config.data.use_cache:
        return None
    preprocessing = Preprocessing(config.data.image_size)
    key = StoreKey.of(backbone, preprocessing, _layer(config), config.training.precision)
    cache_dir = Path(config.data.cache_dir) if config.data.cache_dir else default_cache_dir()
    return FeatureStore(cache_dir, key)


def open_sources(
    config: ExperimentConfig,
    splits: Mapping[str, Sequence[Sample]],
    backbone: FrozenBackbone,
    store: FeatureStore | None,
    device: torch.device,
    reporter: Reporter,
) -> Sources:
    """States of all splits from the feature store; without one the images themselves."""
    preprocessing = Preprocessing(config.data.image_size)
    workers = choose_workers(config.data.num_workers)
    if store is None:
        images = {name: ImageDataset(split, preprocessing) for name, split in splits.items()}
        return Sources(images, Trunk(backbone.network, _layer(config)).to(device), workers)
    datasets = prepare_states(
        splits, backbone, preprocessing, store,
        device=device, num_workers=workers, reporter=reporter,
    )  # fmt: skip
    return Sources(dict(datasets), None, 0)


def _layer(config: ExperimentConfig) -> str:
    """Which states are stored: those before what is trained."""
    return "trunk" if config.model.unfreeze_last_layer else "features"
