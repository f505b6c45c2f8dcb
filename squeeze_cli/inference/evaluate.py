"""Metrics of a finished run, on its own data or on others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.frozen import FrozenBackbone
from squeeze_cli.config.record import FinishedRecord, SplitMetrics
from squeeze_cli.config.resolve import with_values
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.config.yaml_files import load_experiment
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.features.sources import evaluation_batch_size, open_sources, open_store
from squeeze_cli.features.store import FeatureStore
from squeeze_cli.model.build import build_network
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.checkpoints import load_best
from squeeze_cli.training.devices import choose_device
from squeeze_cli.training.fit import load_splits, make_module
from squeeze_cli.training.modules import BaselineSegmentationModule


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, loaded: its configuration, record, backbone and trained module."""

    folder: RunFolder
    config: ExperimentConfig
    record: FinishedRecord
    backbone: FrozenBackbone
    module: BaselineSegmentationModule

    @cached_property
    def store(self) -> FeatureStore | None:
        """Where its states are kept; None with `--no-cache`."""
        return open_store(self.config, self.backbone)


def load_run(
    path: Path, device: torch.device, config: ExperimentConfig | None = None
) -> TrainedRun:
    """Load a finished run's best epoch on `device`; `config` replaces what its folder says.

    Raises SqueezeError for an unfinished run, or where the backbone's weights are not those that
    it was trained on.
    """
    folder = RunFolder(path)
    record, own_config = require_finished(folder)
    config = config or own_config
    backbone = create_backbone(config.model, config.data.image_size)
    if backbone.weights.digest != record.model.weights_digest:
        mend = (
            "bring back the versions of torch, torchvision and timm that run.json names"
            if backbone.random_weights
            else f"bring back the file behind --weights {config.model.weights}"
        )
        raise SqueezeError(
            f"The weights of {backbone.name} are not those that {path} was trained on: "
            f"{mend}, or train it again."
        )
    module = make_module(config, build_network(config, backbone))
    load_best(module, folder)
    module.eval().to(device)
    return TrainedRun(folder, config, record, backbone, module)


def require_finished(folder: RunFolder) -> tuple[FinishedRecord, ExperimentConfig]:
    """Record and configuration of a finished run; SqueezeError for one that is not."""
    record = folder.read_finished()
    try:
        return record, load_experiment(folder.config_file, None)
    except UsageError as error:  # of a file of ours it is no wrong usage
        raise SqueezeError(f"{error} The run needs its own: train it again.") from None


def reconfigured(folder: RunFolder, flags: Mapping[str, Any]) -> ExperimentConfig:
    """The run's own configuration with flags, by parameter name, in place of its fields.

    A data folder takes the place of synthetic images. Raises SqueezeError where the folder is no
    run's.
    """
    _, config = require_finished(folder)
    for name, value in flags.items():
        section, _, field = name.partition("__")
        if field and value is not None:
            if name == "data__data_dir" and config.data.dataset == "synthetic":
                config = with_values(config, {"data.dataset": "oxford-pet"})
            config = with_values(config, {f"{section}.{field}": value})
    return config


def evaluate_run(
    path: Path, split: str, flags: Mapping[str, Any], reporter: Reporter
) -> dict[str, Any]:
    """Metrics of the run at `path` on its `val` or `test` split, or that of another data folder.

    Args:
        path: a finished run's folder.
        split: `val` or `test`.
        flags: what replaces the run's own configuration, by parameter name (`data__data_dir`).
        reporter: for messages.

    Returns:
        The metrics as in the run record, with the number of images and what was measured.
    """
    config = reconfigured(RunFolder(path), flags)
    device = choose_device(config.training.device)
    run = load_run(path, device, config)
    splits = load_splits(config, run.store, reporter)
    samples = {"val": splits.val, "test": splits.test}[split]
    sources = open_sources(config, {split: samples}, run.backbone, run.store, device, reporter)
    module = run.module
    module.use_trunk(sources.trunk)
    loader = sources.loader(split, evaluation_batch_size(config, run.backbone))
    with reporter.track("Evaluating", len(samples)) as advance:
        metrics = module.measure(loader, device, split, advance)
    return {
        "run": run.folder.name,
        "split": split,
        "data_dir": config.data.data_dir if config.data.dataset == "oxford-pet" else "synthetic",
        "images": len(samples),
        "skipped_images": len(splits.skipped),
        "metrics": SplitMetrics.model_validate(metrics).model_dump(exclude_unset=True),
    }
