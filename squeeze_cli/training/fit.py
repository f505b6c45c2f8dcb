"""One experiment from a configuration to a finished run's folder."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.frozen import FrozenBackbone
from squeeze_cli.config.defaults import TRIMAP_CLASSES
from squeeze_cli.config.record import FinishedRecord, RunRecord, SplitMetrics, Status
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.config.yaml_files import write_config
from squeeze_cli.console import Reporter
from squeeze_cli.data.splits import SplitSamples, build_splits, require_data
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.sources import Sources, evaluation_batch_size, open_sources, open_store
from squeeze_cli.features.store import FeatureStore
from squeeze_cli.losses import create_loss
from squeeze_cli.model.build import build_network
from squeeze_cli.model.initialize import initialize_network
from squeeze_cli.model.network import SegmentationNetwork
from squeeze_cli.runs import RunFolder
from squeeze_cli.trackers import Trackers, open_trackers
from squeeze_cli.training.callbacks import RecordKeeper, TrainingProgress
from squeeze_cli.training.checkpoints import Checkpoints, load_best, require_whole
from squeeze_cli.training.devices import choose_device
from squeeze_cli.training.figures import save_figures
from squeeze_cli.training.modules import BaselineSegmentationModule, VQSqueezeModule
from squeeze_cli.training.outputs import save_outputs
from squeeze_cli.training.record import (
    describe_data,
    describe_model,
    describe_quantizer,
    start_record,
    typed_history,
)


@dataclass
class Experiment:
    """An experiment, set up: everything between the configuration and the trainer."""

    config: ExperimentConfig
    splits: SplitSamples
    backbone: FrozenBackbone
    sources: Sources
    module: BaselineSegmentationModule
    device: torch.device
    feature_seconds: float


def set_up(config: ExperimentConfig, reporter: Reporter) -> Experiment:
    """Data, backbone, states and the network (not yet initialized) for `config`."""
    device = choose_device(config.training.device)
    data = config.data
    # First: where data are missing, no weights are fetched.
    require_data(data.dataset, Path(data.data_dir), data.image_size)
    backbone = create_backbone(config.model, data.image_size)
    store = open_store(config, backbone)
    if store is None or not store.digests:
        _ = backbone.network  # weights that do not fit are found before images are read
    splits = load_splits(config, store, reporter)
    if backbone.random_weights:
        reporter.warn("--weights none: the features are random; results say nothing about them.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        network = build_network(config, backbone)
    start = time.perf_counter()
    named = {"train": splits.train, "val": splits.val, "test": splits.test}
    sources = open_sources(config, named, backbone, store, device, reporter)
    feature_seconds = time.perf_counter() - start
    module = make_module(config, network)
    module.use_trunk(sources.trunk)
    return Experiment(config, splits, backbone, sources, module, device, feature_seconds)


def make_module(
    config: ExperimentConfig, network: SegmentationNetwork
) -> BaselineSegmentationModule:
    """The Lightning module for `config` around `network`."""
    kind = BaselineSegmentationModule if config.quantizer.type == "none" else VQSqueezeModule
    return kind(
        network,
        create_loss(config.model),
        num_classes=config.model.num_classes or TRIMAP_CLASSES,
        lr=config.training.lr,
        encoder_lr_factor=1.0 if (f := config.quantizer.encoder_lr_factor) is None else f,
        seed=config.training.seed,
    )


def load_splits(
    config: ExperimentConfig, store: FeatureStore | None, reporter: Reporter
) -> SplitSamples:
    """The splits that `config` describes; images that cannot be read are reported, not used."""
    data = config.data
    splits = build_splits(
        data.dataset,
        Path(data.data_dir),
        image_size_px=data.image_size,
        seed=config.training.seed,
        subset_size=data.subset_size,
        known=() if store is None else store.digests,
    )
    for name, reason in splits.skipped[:5]:
        reporter.warn(f"Skipped {name}: {reason}")
    if len(splits.skipped) > 5:
        reporter.warn(f"Skipped {len(splits.skipped)} images in all; the run record lists them.")
    return splits


def fit_experiment(
    config: ExperimentConfig,
    run: RunFolder,
    reporter: Reporter,
    *,
    resume: bool = False,
) -> FinishedRecord:
    """Train, test and save `config` in `run`, and return the run's record.

    The record in the folder says `running` until it ends as `finished`, `interrupted` (Ctrl-C,
    which raises KeyboardInterrupt) or `failed`. A mistake found before anything was made, such as
    missing data, leaves no folder.
    """
    begin = time.perf_counter()
    record = run.read_record() if resume else start_record(config, run.name)
    earlier = record.seconds.total if resume else 0.0
    record.status, record.error = "running", None
    if not resume:
        write_config(run.config_file, config)
    run.write_record(record)

    def save(status: Status, error: str | None = None) -> None:
        record.status, record.error = status, error
        record.seconds.total = earlier + time.perf_counter() - begin
        run.write_record(record)

    with ExitStack() as stack:  # the trackers close after the record is whole
        try:
            trackers = stack.enter_context(open_trackers(config, run, record, reporter))
            experiment = _run_stages(config, run, reporter, record, save, resume, trackers)
            save_figures(run, experiment, record, reporter)
        except KeyboardInterrupt:
            save("interrupted")
            raise
        except BaseException as error:
            if isinstance(error, SqueezeError) and not resume and record.model is None:
                record.status = "failed"  # for the trackers
                run.discard()
                raise
            save("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
            raise
        save("finished")
    return run.read_finished()


def _run_stages(
    config: ExperimentConfig,
    run: RunFolder,
    reporter: Reporter,
    record: RunRecord,
    save: Any,
    resume: bool,
    trackers: Trackers,
) -> Experiment:
    experiment = set_up(config, reporter)
    module, sources, training = experiment.module, experiment.sources, config.training
    network = module.network.to(experiment.device)
    batch = training.batch_size
    evaluated = evaluation_batch_size(config, experiment.backbone)
    record.seconds.features += experiment.feature_seconds
    record.data = describe_data(config, experiment.splits)
    record.model = describe_model(config, experiment.backbone, network)
    checkpoint = run.last_checkpoint if resume and run.last_checkpoint.exists() else None
    if checkpoint is not None:
        require_whole(checkpoint)
    else:
        states = sources.states("train", batch, training.seed, experiment.device)
        images = len(experiment.splits.train)
        initialize_network(network, states, images, batch, training.seed)
    grid = feature_grid(experiment)
    record.quantizer = describe_quantizer(config, network, grid)
    save("running")
    run.drop_replaced()

    def update(fitted: BaselineSegmentationModule) -> None:
        record.history = typed_history(fitted.history)
        record.epochs.done = len(fitted.history)
        save("running")

    start = time.perf_counter()
    with _quiet_libraries(reporter):
        trainer = _trainer(config, run, experiment.device, reporter, update, trackers)
        _fit(
            trainer, module,
            sources.loader("train", batch, seed=training.seed, shuffle=True),
            sources.loader("val", evaluated),
            checkpoint,
        )  # fmt: skip
        record.seconds.fit += time.perf_counter() - start
        update(module)
        best = max(module.history, key=lambda epoch: epoch["val"]["iou"])
        record.epochs.best = best["epoch"]
        load_best(module, run)
        record.metrics.val = SplitMetrics.model_validate(best["val"])
        trained = module.measure(sources.loader("train", evaluated), experiment.device, "train")
        record.metrics.train = SplitMetrics.model_validate(trained)
        trainer.test(module, sources.loader("test", evaluated), verbose=False)
    record.metrics.test = SplitMetrics.model_validate(module.results["test"])
    start = time.perf_counter()
    record.digest, record.measured = save_outputs(run, experiment, reporter)
    record.seconds.codes = time.perf_counter() - start
    return experiment


def _trainer(
    config: ExperimentConfig,
    run: RunFolder,
    device: torch.device,
    reporter: Reporter,
    update: Any,
    trackers: Trackers,
) -> pl.Trainer:
    training = config.training
    limit: int | float = training.max_batches or 1.0
    return pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device.type, device.type),
        devices=1,
        precision="bf16-mixed" if training.precision == "bf16" else "32-true",
        max_epochs=training.epochs,
        limit_train_batches=limit,
        limit_val_batches=limit,
        limit_test_batches=limit,
        num_sanity_val_steps=0,
        logger=trackers.loggers,
        callbacks=[Checkpoints(run), TrainingProgress(reporter), RecordKeeper(update)],
        enable_checkpointing=False,  # Lightning's own: ours are callbacks like any
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10**9,  # metrics are logged once an epoch
        use_distributed_sampler=False,
    )


def _fit(trainer: pl.Trainer, module: Any, train: Any, val: Any, checkpoint: Path | None) -> None:
    """`trainer.fit`, where Ctrl-C is KeyboardInterrupt: Lightning turns it into SystemExit(1)."""
    try:
        trainer.fit(module, train, val, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        raise KeyboardInterrupt from None
    if trainer.interrupted:
        raise KeyboardInterrupt
    if not module.history:
        raise SqueezeError("No epoch was trained: there are no training batches; check the data.")


def feature_grid(experiment: Experiment) -> tuple[int, int]:
    """Rows and columns of the feature map."""
    network = experiment.module.network
    sample = next(experiment.sources.states("val", 2, 0, experiment.device))
    with torch.no_grad():
        maps = network.eval().backbone_features(sample)
    network.train()
    return int(maps.shape[2]), int(maps.shape[3])


@contextmanager
def _quiet_libraries(reporter: Reporter) -> Iterator[None]:
    """Hide what Lightning prints about itself, unless asked for; put everything back after."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    with warnings.catch_warnings():
        if not reporter.verbose:
            warnings.simplefilter("ignore")
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
