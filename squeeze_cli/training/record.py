"""The run record as a training writes it; docs/run-record.md describes the fields."""

import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from math import prod

import torch
from torch.utils.flop_counter import FlopCounterMode

from squeeze_cli import __version__
from squeeze_cli.config.fields import short_size
from squeeze_cli.config.parts import choose_head, has_bottleneck
from squeeze_cli.config.record import (
    DataDescription,
    EpochMetrics,
    Epochs,
    Metrics,
    ModelDescription,
    QuantizerDescription,
    RunRecord,
    Seconds,
    SplitMetrics,
    Status,
)
from squeeze_cli.config.resolve import decisive_settings
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter, printable
from squeeze_cli.errors import SqueezeError
from squeeze_cli.model.network import SegmentationNetwork
from squeeze_cli.quantizers.base import FLOAT32_BITS
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.experiment import Experiment
from squeeze_cli.training.metrics import Values

# The number of an epoch, a digest of its weights, and its metrics on `train` and `val`.
Epoch = dict[str, object]
MOST_SKIPPED = 100
# Ratio of the last epoch's loss to that of the first step above which a warning is given.
GROWN_LOSS = 10.0
# Perplexity below which a codebook counts as collapsed; 1 means that a single code is used.
COLLAPSED_PERPLEXITY = 1.2
PACKAGES = ("torch", "torchvision", "timm", "lightning", "vector-quantize-pytorch")


def start_record(config: ExperimentConfig, name: str) -> RunRecord:
    """Return the record of a run that has just begun."""
    return RunRecord(
        name=name, kind=config.kind, status="running", error=None,
        created=datetime.now(UTC).isoformat(timespec="seconds"), seed=config.training.seed,
        epochs=Epochs(planned=config.training.epochs, done=0, best=None),
        metrics=Metrics(train=None, val=None, test=None), history=[],
        seconds=Seconds(features=0.0, fit=0.0, total=0.0),
        versions={"squeeze": __version__, "python": platform.python_version(),
                  **{package: version(package) for package in PACKAGES}},
    )  # fmt: skip


def _describe_data(experiment: Experiment) -> DataDescription:
    """Describe the images, so that two runs on the same ones are recognized."""
    config, splits = experiment.config, experiment.splits
    size_px = None if config.data.has_features else config.data.size_px
    return DataDescription(
        dataset=str(config.data.dataset), digest=splits.digest(), val_digest=splits.digest("val"),
        test_digest=splits.digest("test"), part_digests=splits.part_digests(),
        image_size_px=size_px and short_size(size_px),
        fit=config.data.fit, subset_size=config.data.subset_size, train_images=len(splits.train),
        val_images=len(splits.val), test_images=len(splits.test),
        classes=[] if experiment.classes is None else experiment.classes.names,
        skipped_images=len(splits.skipped),
        skipped=[{"name": printable(name), "reason": printable(reason)}
                 for name, reason in splits.skipped[:MOST_SKIPPED]],
    )  # fmt: skip


def require_same_data(record: RunRecord, experiment: Experiment, reporter: Reporter) -> None:
    """Raise SqueezeError if a resumed run was begun with other data; the data module must be set up.

    For the record of an older version, which has less detail, it is a warning.
    """
    if (before := record.data) is None:
        return
    now = _describe_data(experiment)
    if not before.part_digests:
        if before.digest != now.digest:
            reporter.warn(f"The data of {record.name}, of an older version, may have changed.")
        return
    changed = [
        part for part, digest in now.part_digests.items() if before.part_digests.get(part) != digest
    ]
    if "names" in changed:
        then, today = (
            f"{data.train_images}, {data.val_images} and {data.test_images}"
            for data in (before, now)
        )
        changed = [f"names or splits of images ({then} of train, val and test then, {today} now)"]
    if changed:
        raise SqueezeError(
            f"{record.name} cannot be resumed, its data have changed: other {' and '.join(changed)} "
            "than it was begun with. Restore these, or start again with --overwrite."
        )


def _describe_model(experiment: Experiment) -> ModelDescription:
    """Describe the backbone and the parts that are trained on it."""
    model, backbone = experiment.config.model, experiment.backbone
    network = experiment.module.network
    return ModelDescription(
        backbone=backbone.name, weights="random" if backbone.random_weights else model.weights,
        random_features=backbone.random_weights, weights_digest=backbone.digest,
        feature_dim=backbone.feature_dim, quantized_dim=model.feature_dim or backbone.feature_dim,
        num_classes=model.num_classes, layers=list(backbone.layers) or None,
        head=choose_head(model.head, model.backbone) if model.has_head else None,
        loss=str(model.loss_type), encoder=model.encoder or "linear", add_adapter=model.add_adapter,
        unfreeze_last_layer=model.unfreeze_last_layer,
        teacher_digest=experiment.module.teacher_digest,
        head_expects_raw_features=network.head is not None and network.head.expects_raw_features,
        trainable_parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
    )  # fmt: skip


def _describe_quantizer(experiment: Experiment) -> QuantizerDescription:
    """Describe codes and nominal rate; the ratio is to the backbone's features in float32."""
    config, network, grid = experiment.config, experiment.module.network, experiment.backbone.grid
    quantizer, kind = network.quantizer, config.quantizer.type
    bits = quantizer.nominal_bits_per_vector * (prod(network.code_grid(grid)) / prod(grid))
    return QuantizerDescription(
        type=kind, code_sizes=list(quantizer.code_sizes),
        bottleneck_dim=config.quantizer.bottleneck_dim if has_bottleneck(kind) else None,
        grid=list(grid), nominal_bits_per_vector=bits,
        nominal_bytes_per_image=bits * grid[0] * grid[1] / 8,
        nominal_compression_ratio=FLOAT32_BITS * network.normalizer.mean.numel() / bits,
        encoder_flops=_encoder_flops(network, config.model.feature_dim, grid),
    )  # fmt: skip


def _encoder_flops(
    network: SegmentationNetwork, feature_dim: int | None, grid: tuple[int, int]
) -> int | None:
    """Return the number of operations from an image's features to its codes, as PyTorch counts them.

    A projection to `feature_dim` channels is not included. The result is None if PyTorch counts none,
    as without a quantizer and for a codec of FAISS.
    """
    if not network.quantizer.code_sizes:
        return None
    mean, training = network.normalizer.mean, network.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval().codes(torch.zeros(1, feature_dim or mean.numel(), *grid, device=mean.device))
    network.train(training)
    return int(counter.get_total_flops()) or None


class Journal:
    """Record and timing of a run in training."""

    def __init__(self, run: RunFolder, record: RunRecord) -> None:
        self.run = run
        self.record = record
        self._start = self._fit_start = time.perf_counter()
        self._earlier = record.seconds.model_copy()  # of the run before it was resumed

    def save(self, status: Status = "running", error: str | None = None) -> None:
        """Write the record with a status and the time that has passed."""
        self.record.status, self.record.error = status, error and printable(error)
        self.record.seconds.total = self._earlier.total + time.perf_counter() - self._start
        self.run.write_record(self.record)

    def end(self, status: Status, error: str | None = None) -> None:
        """Write the record of a run that stops; if the disk is full, the last record remains."""
        with suppress(SqueezeError):
            self.save(status, error)

    def describe(self, experiment: Experiment) -> None:
        """Add data, model and quantizer to the record, and remove the run that this one replaces."""
        record = self.record
        record.seconds.features += experiment.data.setup_seconds
        record.data = _describe_data(experiment)
        record.model = _describe_model(experiment)
        record.quantizer = _describe_quantizer(experiment)
        record.settings = decisive_settings(experiment.config)
        self._fit_start = time.perf_counter()
        self.save()
        self.run.remove(self.run.replaced)

    def update(self, history: Sequence[Epoch]) -> None:
        """Write the record with the metrics of all epochs."""
        self.record.history = [EpochMetrics.model_validate(epoch) for epoch in history]
        self.record.epochs.done = len(history)
        self.record.seconds.fit = self._earlier.fit + time.perf_counter() - self._fit_start
        self.save()

    def conclude(self, best: int, train: Values, test: Values, first_loss: float) -> None:
        """Add the best epoch, the metrics of its weights, and warnings, for the next `save`.

        `first_loss` is the loss of the first training step.
        """
        self.record.epochs.best = best
        metrics = self.record.metrics
        metrics.train = SplitMetrics.model_validate(train)
        metrics.val = self.record.history[best].val
        metrics.test = SplitMetrics.model_validate(test)
        self.record.warnings = _find_warnings(self.record, first_loss)


def _find_warnings(record: RunRecord, first_loss: float) -> list[str]:
    """Return warnings about a finished training."""
    assert record.metrics.train is not None
    warnings, last = [], record.history[-1].train.loss or 0.0
    if last > GROWN_LOSS * first_loss > 0:
        warnings.append(
            f"The training loss grew from {first_loss:.3g} at the first step to {last:.3g} in the last "
            "epoch: lower --lr."
        )
    for level, perplexity in enumerate(record.metrics.train.codebook_perplexity or ()):
        if perplexity < COLLAPSED_PERPLEXITY:
            warnings.append(
                f"Nearly all vectors have the same code (codebook {level}, perplexity "
                f"{perplexity:.2f}): the codebook has collapsed, or the images are alike."
            )
    return warnings
