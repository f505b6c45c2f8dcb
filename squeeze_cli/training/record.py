"""Parts of a run record that a training writes; docs/run-record.md describes the fields."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from squeeze_cli import __version__
from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.config.record import (
    DataDescription,
    EpochMetrics,
    Epochs,
    Metrics,
    ModelDescription,
    QuantizerDescription,
    RunRecord,
    Seconds,
)
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.data.splits import SplitSamples
from squeeze_cli.model.network import SegmentationNetwork

FLOAT32_BITS = 32
MOST_SKIPPED = 100
PACKAGES = ("torch", "torchvision", "timm", "lightning", "vector-quantize-pytorch")


def start_record(config: ExperimentConfig, name: str) -> RunRecord:
    """The record of a run that has just begun."""
    return RunRecord(
        name=name,
        kind=config.kind,
        status="running",
        error=None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=config.training.seed,
        epochs=Epochs(planned=config.training.epochs, done=0, best=None),
        metrics=Metrics(train=None, val=None, test=None),
        history=[],
        seconds=Seconds(features=0.0, fit=0.0, total=0.0),
        versions={
            "squeeze": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
    )


def describe_data(config: ExperimentConfig, splits: SplitSamples) -> DataDescription:
    """The images: enough to say whether two runs saw the same ones."""
    return DataDescription(
        dataset=config.data.dataset,
        digest=splits.digest(),
        image_size_px=config.data.image_size,
        subset_size=config.data.subset_size,
        train_images=len(splits.train),
        val_images=len(splits.val),
        test_images=len(splits.test),
        skipped_images=len(splits.skipped),
        skipped=[
            {"name": name, "reason": reason} for name, reason in splits.skipped[:MOST_SKIPPED]
        ],
    )


def describe_model(
    config: ExperimentConfig, backbone: FrozenBackbone, network: SegmentationNetwork
) -> ModelDescription:
    """The backbone, what is trained on it, and the number of trainable parameters."""
    model = config.model
    return ModelDescription(
        backbone=backbone.name,
        weights="random" if backbone.random_weights else model.weights,
        random_features=backbone.random_weights,
        weights_digest=backbone.weights.digest,
        feature_dim=backbone.feature_dim,
        quantized_dim=network.quantizer.feature_dim,
        num_classes=model.num_classes,
        loss=model.loss_type,
        add_adapter=model.add_adapter,
        unfreeze_last_layer=model.unfreeze_last_layer,
        head_expects_raw_features=network.head.expects_raw_features,
        trainable_parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
    )


def describe_quantizer(
    config: ExperimentConfig, network: SegmentationNetwork, grid: tuple[int, int]
) -> QuantizerDescription:
    """Codes and nominal rate; the ratio is against the backbone's features in float32."""
    quantizer = network.quantizer
    bits = quantizer.nominal_bits_per_vector
    return QuantizerDescription(
        type=config.quantizer.type,
        code_sizes=list(quantizer.code_sizes),
        bottleneck_dim=config.quantizer.bottleneck_dim if quantizer.code_sizes else None,
        grid=list(grid),
        nominal_bits_per_vector=bits,
        nominal_bytes_per_image=bits * grid[0] * grid[1] / 8,
        nominal_compression_ratio=FLOAT32_BITS * network.normalizer.mean.numel() / bits,
    )


def typed_history(history: Sequence[Mapping[str, object]]) -> list[EpochMetrics]:
    """The epochs' metrics as the record holds them."""
    return [EpochMetrics.model_validate(epoch) for epoch in history]
