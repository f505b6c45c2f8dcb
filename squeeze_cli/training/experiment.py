"""Building of everything that a trainer needs from the configuration of an experiment."""

from dataclasses import dataclass

import torch

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.base import FeatureOrigin
from squeeze_cli.config.classes import ClassTable
from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.config.parts import DATASETS
from squeeze_cli.config.record import FinishedRecord
from squeeze_cli.config.resolve import with_classes
from squeeze_cli.config.schema import DataConfig, ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.images import choose_workers
from squeeze_cli.data.labels import LabelledMasks
from squeeze_cli.data.reading import warn_of_skipped
from squeeze_cli.data.sources import Listing
from squeeze_cli.data.splits import choose_samples, complete_splits, label_samples
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.arrays import GivenFeatureBatches, GivenFeatures, check_splits
from squeeze_cli.features.datamodule import (
    FeatureBatches,
    SegmentationDataModule,
    make_trunk,
    open_store,
)
from squeeze_cli.model.build import build_network
from squeeze_cli.model.network import SegmentationNetwork
from squeeze_cli.quantizers.vq import ResidualVQWithProjection
from squeeze_cli.reports.tables import classes_text
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.checkpoints import load_best
from squeeze_cli.training.devices import choose_device, count_processes
from squeeze_cli.training.modules import FeatureModule, ReconstructionModule, SegmentationModule

# Share of all pixels below which the value of a mask is rare.
RARE_SHARE = 1e-3


@dataclass
class Experiment:
    """Objects for the training of an experiment.

    `config` includes the classes and the number of the head's outputs that were found in masks.
    Without a head no masks are read, and `classes` is None.
    """

    config: ExperimentConfig
    classes: ClassTable | None
    listed: Listing
    backbone: FeatureOrigin
    data: FeatureBatches
    module: FeatureModule
    device: torch.device

    @property
    def splits(self) -> Listing:
        """The samples of each split; after the set-up of `data` without those that cannot be read."""
        return self.listed.with_splits(self.data.splits, self.data.skipped)


def set_up(config: ExperimentConfig, reporter: Reporter) -> Experiment:
    """List the data of `config`, and build backbone, network (not initialized) and data module."""
    device, training = choose_device(config.training.device), config.training
    masks: LabelledMasks | None = None
    origin: FeatureOrigin
    data: FeatureBatches
    if config.data.has_features:
        origin, splits = load_features(config, reporter)
        data = GivenFeatureBatches(splits.named(), origin, training, device, reporter)
    else:
        origin = backbone = create_backbone(config.model, config.data.size_px)
        # Weights follow, so that none are downloaded if data are missing or masks are wrong.
        splits, masks = load_splits(config, reporter)
        if masks and "classes" in DATASETS[str(config.data.dataset)].options:
            config = with_classes(config, masks.table)
            reporter.say(classes_text(masks.table, masks.pixels, masks.images))
        trunk = make_trunk(config, backbone, device, choose_workers(config.data.num_workers))
        store = open_store(config, trunk)
        if store is None or not store.digests:
            _ = backbone.network  # weights that do not fit are an error before images are read
        if backbone.random_weights:
            reporter.warn("--weights none: features are random; results say nothing about them.")
        data = SegmentationDataModule(splits.named(), trunk, store, training, reporter)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = build_network(config, origin, count_processes(training, device))
        module = make_module(config, network)  # here, because the rate model has random weights too
    classes = masks.table if masks else None
    return Experiment(config, classes, splits, origin, data, module, device)


def make_module(config: ExperimentConfig, network: SegmentationNetwork) -> FeatureModule:
    """Create the Lightning module for `config` around `network`."""
    kind = SegmentationModule if config.model.has_head else ReconstructionModule
    return kind(config, network)


def load_trained(
    run: RunFolder, record: FinishedRecord, config: ExperimentConfig, origin: FeatureOrigin,
    levels: int | None = None,
) -> FeatureModule:  # fmt: skip
    """Build the module of a finished run on features of `origin`, load its best epoch, and set eval mode.

    With `levels` a run of rvq returns only the codes of the first levels. Raises as `load_best` does.
    """
    with torch.random.fork_rng(devices=[]):
        network = build_network(config, origin)
        if levels is not None:
            assert isinstance(network.quantizer, ResidualVQWithProjection)
            network.quantizer.keep_levels(levels)
        module = make_module(config, network)
    load_best(module, run, record.digest)
    if (head := module.network.head) is not None:
        head.expects_raw_features = record.model.head_expects_raw_features
    return module.eval()


def load_splits(
    config: ExperimentConfig, reporter: Reporter
) -> tuple[Listing, LabelledMasks | None]:
    """Return the splits and their masks, or None for the masks without a segmentation head.

    Samples whose masks cannot be read are reported and left out.
    """
    listing = choose_samples(config.data, config.training.seed)
    for warning in listing.warnings:
        reporter.warn(warning)
    masks: LabelledMasks | None = None
    if config.model.has_head:
        listing, masks = label_samples(config.data, listing)
        _warn_of_values(masks, config.data, reporter)
    splits = complete_splits(listing, config.data.place, config.training.seed)
    warn_of_skipped(splits.skipped, reporter)
    if masks:
        _check_labelled(splits, masks, reporter)
    return splits, masks


def _warn_of_values(masks: LabelledMasks, data: DataConfig, reporter: Reporter) -> None:
    """Warn of mask values that belong to no class, of classes without a pixel, and without a table of
    values like those of smoothed edges, and of pixels that are ignored by default."""
    if masks.stray_pixels:
        reporter.warn(
            f"{masks.stray_pixels} pixels in {masks.stray_images} masks have values that belong to "
            "no class; they count as the class of the nearest value."
        )
    if absent := [name for name, n in zip(masks.table.names, masks.images, strict=True) if not n]:
        reporter.warn(f"No mask has a pixel of {', '.join(absent)}.")
    if data.classes or "classes" not in DATASETS[str(data.dataset)].options:
        return
    least = RARE_SHARE * sum(masks.pixels)
    rare = [n for n in masks.pixels if n < least]
    if len(rare) > len(masks.pixels) / 2:
        reporter.warn(
            f"{len(rare)} of {len(masks.pixels)} mask values have less than {RARE_SHARE:.1%} of the "
            "pixels each: if edges were smoothed, store others, or name the classes by --classes FILE."
        )
    total = sum(sum(each.mask.counts) for each in masks.labels)
    if data.ignore_index is None and (ignored := total - sum(masks.pixels)):
        reporter.warn(
            f"{ignored / total:.1%} of the pixels have the value {IGNORE_INDEX}, which is ignored by "
            f"default: --ignore-index -1 makes it a class, --ignore-index {IGNORE_INDEX} does not."
        )


def _check_labelled(splits: Listing, masks: LabelledMasks, reporter: Reporter) -> None:
    """Warn of masks without a labelled pixel, and of classes that only validation and test have.

    Raises SqueezeError if a split has no other masks.
    """
    learnt = {index for each in splits.train if each.labels for index in each.labels.classes}
    named = enumerate(zip(masks.table.names, masks.images, strict=True))
    if rest := [name for index, (name, images) in named if images and index not in learnt]:
        reporter.warn(f"No mask of train has a pixel of {', '.join(rest)}; other splits do.")
    for name, samples in splits.named().items():
        blank = [each.name for each in samples if each.labels and not each.labels.is_labelled]
        if len(blank) == len(samples):
            raise SqueezeError(
                f"The {len(blank)} masks of {name} hold nothing but ignored values, such as that of "
                f"{blank[0]}: correct the masks, or choose other splits."
            )
        if blank:
            reporter.warn(
                f"{len(blank)} masks of {name} label no pixel, such as that of {blank[0]}."
            )


def load_features(config: ExperimentConfig, reporter: Reporter) -> tuple[GivenFeatures, Listing]:
    """Return the given features that `config` names, and their splits; each is read once.

    Raises SqueezeError, which names file and row, for unusable features.
    """
    splits, _ = load_splits(config, reporter)
    return check_splits(splits, reporter)
