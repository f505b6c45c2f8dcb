"""What an experiment is: frozen dataclasses, one section each, with the older configs' field names.

The order of precedence is defaults < file < flags; `config.resolve` applies it. A value of None
means "decided by another choice" (the backbone's number of classes, the quantizer's codebook size)
and is filled in by `resolve_defaults`, so that a run's `config.yaml` never holds such a None.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

from squeeze_cli.config.parts import BACKBONES, LOSSES, QUANTIZERS
from squeeze_cli.errors import UsageError

DATASETS = ("oxford-pet", "synthetic")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("32", "bf16")
TRIMAP_CLASSES = 3
DEFAULT_CODEBOOK_SIZE = 512


@dataclass(frozen=True)
class QuantizerConfig:
    """How feature vectors become codes; which fields count depends on `type`."""

    type: str = "vq"
    codebook_size: int | None = None
    bottleneck_dim: int = 64
    num_quantizers: int = 4
    levels: tuple[int, ...] = (8, 5, 5, 5)
    decay: float = 0.99
    commitment_weight: float = 0.25
    entropy_loss_weight: float = 0.1
    diversity_gamma: float = 0.1
    spherical: bool = False
    vq_loss_weight: float = 0.1
    initialize_codebook: bool = True
    encoder_lr_factor: float | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The backbone, what is trained on it, and the loss.

    `weights` is `default` (the published ones), `none` (random, for tests) or a path;
    `vit_weights` and `deeplab_weights` name the published weights in torchvision's own terms.
    """

    backbone: str = "vit"
    num_classes: int | None = None
    freeze_backbone: bool = True
    unfreeze_last_layer: bool = False
    weights: str = "default"
    vit_weights: str = "IMAGENET1K_V1"
    deeplab_weights: str = "COCO_WITH_VOC_LABELS_V1"
    add_adapter: bool = False
    feature_dim: int | None = None
    loss_type: str = "ce"
    class_weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class DataConfig:
    """Which images, at which size."""

    dataset: str = "oxford-pet"
    data_dir: str = "./data"
    image_size: int = 224
    subset_size: int | None = None
    num_workers: int | None = None
    cache_dir: str | None = None
    use_cache: bool = True


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast; `lr` is the peak of a one-cycle schedule (docs/results.md says why)."""

    epochs: int = 10
    batch_size: int = 4
    lr: float = 1e-3
    max_batches: int | None = None
    seed: int = 42
    device: str = "auto"
    precision: str = "32"


@dataclass(frozen=True)
class LoggerConfig:
    """Where metrics go besides the run record (docs/trackers.md)."""

    use_tensorboard: bool = True
    use_clearml: bool = False
    project_name: str = "squeeze"
    task_name: str | None = None
    credentials_file: str | None = None
    clearml_tags: tuple[str, ...] = ()
    clearml_offline: bool = False
    require_clearml: bool = False
    auto_connect_frameworks: bool = True


@dataclass(frozen=True)
class ExperimentConfig:
    """One experiment, whole; `kind` is `quantized` (squeeze train) or `baseline`."""

    kind: str = "quantized"
    name: str | None = None
    output_dir: str = "runs"
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


def resolve_defaults(config: ExperimentConfig) -> ExperimentConfig:
    """Fill in what other choices decide: codebook size, encoder's rate, number of classes."""
    quantizer, model = config.quantizer, config.model
    if config.kind == "baseline":
        quantizer = replace(quantizer, type="none")
    if quantizer.codebook_size is None:
        size = QUANTIZERS[quantizer.type].defaults.get("codebook_size", DEFAULT_CODEBOOK_SIZE)
        quantizer = replace(quantizer, codebook_size=size)
    if quantizer.encoder_lr_factor is None:
        factor = QUANTIZERS[quantizer.type].defaults.get("encoder_lr_factor", 1.0)
        quantizer = replace(quantizer, encoder_lr_factor=factor)
    if model.num_classes is None:
        model = replace(model, num_classes=BACKBONES[model.backbone].defaults["num_classes"])
    return replace(config, quantizer=quantizer, model=model)


def validate(config: ExperimentConfig) -> None:
    """Raise UsageError, naming the mend, for the first value that cannot work.

    Takes a configuration whose defaults are resolved. Costs nothing: it imports no torch, so a
    usage error comes at once; sizes that only the backbone knows are checked when it is built.
    """
    _validate_choices(config)
    _validate_quantizer(config.quantizer)
    _validate_model(config.model)
    _validate_numbers(config)
    _validate_logger(config.logger)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def _validate_choices(config: ExperimentConfig) -> None:
    for registry, name in (
        (QUANTIZERS, config.quantizer.type),
        (BACKBONES, config.model.backbone),
        (LOSSES, config.model.loss_type),
    ):
        registry[name]  # raises, with the nearest name
    for what, value, allowed in (
        ("kind", config.kind, ("quantized", "baseline")),
        ("dataset", config.data.dataset, DATASETS),
        ("device", config.training.device, DEVICES),
        ("precision", config.training.precision, PRECISIONS),
    ):
        _require(value in allowed, f"Unknown {what} {value!r}: choose one of {', '.join(allowed)}.")


def _validate_quantizer(quantizer: QuantizerConfig) -> None:
    size = quantizer.codebook_size or 0
    options = QUANTIZERS[quantizer.type].options
    _require(quantizer.bottleneck_dim >= 1, "--bottleneck-dim must be 1 or more, e.g. 64.")
    _require(quantizer.num_quantizers >= 1, "--num-quantizers must be 1 or more, e.g. 4.")
    if "codebook_size" in options:
        _require(2 <= size <= 2**20, "--codebook-size must lie between 2 and 1048576, e.g. 512.")
    if quantizer.type == "lfq":
        _require(
            size & (size - 1) == 0,
            f"--codebook-size {size} cannot be used with --quantizer lfq, which spends one bit a "
            f"dimension: take a power of two, {2 ** (size.bit_length() - 1)} or "
            f"{2 ** size.bit_length()}.",
        )
    _require(
        len(quantizer.levels) >= 1 and all(level >= 3 for level in quantizer.levels),
        "--levels needs levels of 3 or more, separated by commas, e.g. 8,5,5,5.",
    )
    _require(
        prod(quantizer.levels) <= 2**20,
        f"--levels gives {prod(quantizer.levels)} codes: their product must not pass 1048576.",
    )
    _require(0 <= quantizer.decay < 1, "--decay must be at least 0 and below 1, e.g. 0.99.")
    for flag, value in (
        ("--commitment-weight", quantizer.commitment_weight),
        ("--entropy-loss-weight", quantizer.entropy_loss_weight),
        ("--diversity-gamma", quantizer.diversity_gamma),
        ("--vq-loss-weight", quantizer.vq_loss_weight),
        ("--encoder-lr-factor", quantizer.encoder_lr_factor or 0.0),
    ):
        _require(0 <= value < float("inf"), f"{flag} must be 0 or more.")


def _validate_model(model: ModelConfig) -> None:
    classes = model.num_classes or 0
    _require(
        TRIMAP_CLASSES <= classes <= 254,
        f"--num-classes {classes} cannot hold the {TRIMAP_CLASSES} classes of the trimaps "
        "(pet, background, border): take 3 to 254.",
    )
    _require(
        model.freeze_backbone,
        "freeze_backbone: false is not supported: squeeze works on frozen features; "
        "unfreeze_last_layer: true trains the last block.",
    )
    if model.feature_dim is not None:
        _require(model.feature_dim >= 1, "--feature-dim must be 1 or more, e.g. 256.")
    weights = model.class_weights
    if weights is not None:
        _require(
            len(weights) in (TRIMAP_CLASSES, classes),
            f"--class-weights gives {len(weights)} weights: give one for each of the "
            f"{TRIMAP_CLASSES} trimap classes, e.g. 1,1,2, or for each of the {classes} outputs.",
        )
        _require(
            all(0 <= w < float("inf") for w in weights) and any(weights),
            "--class-weights must be 0 or more, and not all 0.",
        )


def _validate_numbers(config: ExperimentConfig) -> None:
    training, data = config.training, config.data
    _require(training.epochs >= 1, "--epochs must be 1 or more.")
    _require(training.batch_size >= 2, "--batch-size must be 2 or more (BatchNorm needs two).")
    _require(0 < training.lr < 10, "--lr must be above 0 and below 10, e.g. 1e-3.")
    _require(0 <= training.seed < 2**32, "--seed must lie between 0 and 4294967295.")
    _require(training.max_batches is None or training.max_batches >= 1, "--max-batches must be 1+.")
    _require(data.image_size >= 32, "--image-size must be 32 or more, e.g. 224.")
    _require(data.subset_size is None or data.subset_size >= 5, "--subset-size must be 5 or more.")
    _require(data.num_workers is None or data.num_workers >= 0, "--num-workers must be 0 or more.")


def _validate_logger(logger: LoggerConfig) -> None:
    _require(bool(logger.project_name.strip()), "--project-name must not be empty, e.g. squeeze.")
    if logger.use_clearml:
        _require(
            not (logger.clearml_offline and logger.require_clearml),
            "--clearml-offline needs no server, --require-clearml one: leave one of them out.",
        )
