"""Schema of an experiment: one immutable, validated model per section of the configuration.

Each field holds its default, its range, its description and, where its name does not say enough,
its option. `options` makes the command line of these, and docs/config.schema.json is their JSON schema.
None stands for "decided by another choice" (the number of classes by the backbone, the codebook
size by the quantizer); `config.resolve` fills it in, so a run's `config.yaml` holds no such None.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field
from pydantic.fields import FieldInfo

from squeeze_cli.config.defaults import BOTTLENECK_DIM, CODEBOOK_SIZE, RESIDUAL_CODEBOOK_SIZE
from squeeze_cli.config.fields import (
    NO_FLAG,
    AsList,
    AsReal,
    AsSection,
    AsWhole,
    Count,
    Flag,
    Real,
    RealOrNone,
    Section,
    Switch,
    Whole,
    WholeOrNone,
    option_type,
)
from squeeze_cli.config.parts import BACKBONES, LOSSES, QUANTIZERS

QuantizerName = Annotated[
    str, AfterValidator(QUANTIZERS.check), Field(json_schema_extra={"enum": [*QUANTIZERS]})
]
BackboneName = Annotated[
    str, AfterValidator(BACKBONES.check), Field(json_schema_extra={"enum": [*BACKBONES]})
]
LossName = Annotated[
    str, AfterValidator(LOSSES.check), Field(json_schema_extra={"enum": [*LOSSES]})
]
Kind = Literal["quantized", "baseline"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Annotated[  # YAML reads 32 as a number
    Literal["32", "bf16"], BeforeValidator(lambda value: "32" if value == 32 else value)
]
Dataset = Literal["oxford-pet", "synthetic"]
Levels = Annotated[tuple[Annotated[int, Field(ge=3), AsWhole], ...], AsList]
ClassWeights = Annotated[tuple[Annotated[float, Field(ge=0), AsReal], ...] | None, AsList]


class QuantizerConfig(Section):
    """How feature vectors become codes; which fields count depends on `type`."""

    type: Annotated[QuantizerName, Flag(("--quantizer", "--quantizer-type"))] = Field(
        "vq", description=f"How features become codes: {', '.join(QUANTIZERS)}."
    )
    codebook_size: Annotated[
        WholeOrNone, Flag(default=f"{CODEBOOK_SIZE}; {RESIDUAL_CODEBOOK_SIZE} for rvq")
    ] = Field(None, ge=2, le=2**20, description="Codes per codebook (vq, lfq, rvq).")
    bottleneck_dim: Whole = Field(
        BOTTLENECK_DIM, ge=1, description="Width that features are projected to."
    )
    num_quantizers: Whole = Field(4, ge=1, description="Number of codebooks in the stack (rvq).")
    levels: Annotated[Levels, Flag(metavar="8,5,5,5")] = Field(
        (8, 5, 5, 5), min_length=1, description="Number of levels of each dimension (fsq)."
    )
    decay: Real = Field(
        0.99, ge=0, lt=1, description="Decay of the codebooks' moving averages (vq, rvq)."
    )
    commitment_weight: Real = Field(
        0.25, ge=0, description="Weight of the commitment loss (vq, rvq, lfq)."
    )
    entropy_loss_weight: Real = Field(0.1, ge=0, description="Weight of the entropy loss (lfq).")
    diversity_gamma: Real = Field(
        0.1, ge=0, description="Weight of even code use within the entropy loss (lfq)."
    )
    spherical: Switch = Field(False, description="Project vectors to the unit sphere first (lfq).")
    vq_loss_weight: Real = Field(
        0.1, ge=0, description="Weight of the quantizer's loss in the total (vq, rvq, lfq)."
    )
    initialize_codebook: Annotated[
        Switch, Flag(("--initialize-codebook/--random-codebook", "/--no-initialize-codebook"))
    ] = Field(True, description="Initialize codebooks (vq, rvq) by k-means on training features.")
    encoder_lr_factor: Annotated[RealOrNone, Flag(default="1; 0.3 for vq")] = Field(
        None,
        ge=0,
        description="Factor on the learning rate for the layers before the codes: a smaller one "
        "gives fewer bits and a lower mean IoU.",
    )


class ModelConfig(Section):
    """The backbone, what is trained on it, and the loss."""

    backbone: Annotated[BackboneName, Flag(("--model", "--backbone"))] = Field(
        "vit", description=f"Frozen backbone: {', '.join(BACKBONES)}."
    )
    num_classes: Annotated[WholeOrNone, Flag(default="21 for vit, else 3")] = Field(
        None, ge=3, le=254, description="Number of outputs of the head."
    )
    freeze_backbone: Annotated[Switch, NO_FLAG] = Field(
        True, description="Always true: squeeze works on frozen features; see unfreeze_last_layer."
    )
    unfreeze_last_layer: Annotated[
        Switch, Flag(("--unfreeze-last-layer/--freeze-last-layer", "/--no-unfreeze-last-layer"))
    ] = Field(False, description="Train the last layer of the backbone too.")
    weights: Annotated[str, Flag(metavar="W")] = Field(
        "default",
        description="default (the published weights), none (random, for tests) or a file.",
    )
    vit_weights: Annotated[str, NO_FLAG] = Field(
        "IMAGENET1K_V1", description="Name of the published weights of vit in torchvision."
    )
    deeplab_weights: Annotated[str, NO_FLAG] = Field(
        "COCO_WITH_VOC_LABELS_V1",
        description="Name of the published weights of deeplab in torchvision.",
    )
    add_adapter: Switch = Field(
        False, description="Train a residual adapter on the frozen features."
    )
    use_kernels: Annotated[Switch, Flag(("--kernels/--no-kernels",))] = Field(
        True, description="Use squeeze's kernels in place of the plain torch calls that they equal."
    )
    feature_dim: Annotated[WholeOrNone, Flag(default="that of the backbone")] = Field(
        None, ge=1, description="Project features to N channels before the quantizer."
    )
    loss_type: Annotated[LossName, Flag(("--loss", "--loss-type"))] = Field(
        "ce", description=f"Segmentation loss: {', '.join(LOSSES)}."
    )
    class_weights: Annotated[ClassWeights, Flag(metavar="1,1,2", default="all 1")] = Field(
        None, description="Weight of each class in the loss: pet, background, border."
    )


class DataConfig(Section):
    """Which images, at which size, and where their features are kept."""

    dataset: Dataset = Field(
        "oxford-pet", description="oxford-pet (downloaded if missing) or synthetic (drawn)."
    )
    data_dir: Annotated[str, Flag(("--data-dir", "--data-path"), "DIR")] = Field(
        "./data", description="Folder that holds oxford-iiit-pet/."
    )
    image_size: Whole = Field(224, ge=32, description="Height and width of the images, in pixels.")
    subset_size: WholeOrNone = Field(
        None, ge=5, description="Use only N images of trainval, and at most N of test."
    )
    num_workers: Annotated[WholeOrNone, Flag(default="one per core, at most 8")] = Field(
        None, ge=0, description="Number of processes that decode images."
    )
    cache_dir: Annotated[str | None, Flag(None, "DIR", "the platform's cache folder")] = Field(
        None, description="Folder in which features are kept."
    )
    use_cache: Annotated[Switch, Flag(("--cache/--no-cache",))] = Field(
        True, description="Keep features, so that each image passes the backbone once."
    )


class TrainingConfig(Section):
    """How long, how fast and on which devices; `docs/results.md` says how `lr` was chosen."""

    epochs: Whole = Field(10, ge=1, description="Passes over the training images.")
    batch_size: Whole = Field(
        4, ge=2, description="Images per step on each device; BatchNorm needs two."
    )
    lr: Real = Field(1e-3, gt=0, lt=10, description="Peak of the one-cycle learning rate.")
    max_batches: WholeOrNone = Field(
        None, ge=1, description="Stop each epoch after N batches, for a quick look."
    )
    seed: Whole = Field(42, ge=0, lt=2**32, description="Seed for all random numbers.")
    device: DeviceName = Field("auto", description="Where to compute: auto, cpu, cuda or mps.")
    precision: Annotated[Precision, Flag(metavar="P")] = Field(
        "32", description="32, or bf16 (mixed) on hardware that is fast at it."
    )
    devices: Annotated[Count, Flag(metavar="N")] = Field(
        1, description="Number of devices to train on, or auto for all."
    )
    num_nodes: Whole = Field(1, ge=1, description="Number of machines to train on.")
    strategy: str = Field(
        "auto", min_length=1, description="Lightning's strategy for several devices, such as ddp."
    )


class LoggerConfig(Section):
    """Trackers, which get the metrics besides the run record (docs/trackers.md)."""

    use_tensorboard: Annotated[Switch, Flag(("--tensorboard/--no-tensorboard",))] = Field(
        True, description="Write TensorBoard events."
    )
    use_clearml: Annotated[Switch, Flag(("--use-clearml/--no-clearml",))] = Field(
        False, description="Report to a ClearML server too (docs/trackers.md)."
    )
    project_name: str = Field("squeeze", pattern=r"\S", description="Project in ClearML.")
    task_name: Annotated[str | None, Flag(default="the run's name")] = Field(
        None, description="Task in ClearML."
    )
    credentials_file: Annotated[
        str | None, Flag(("--credentials", "--credentials-file"), "FILE", "see docs/trackers.md")
    ] = Field(None, description="File that `squeeze clearml-init` wrote.")
    clearml_tags: Annotated[tuple[str, ...], AsList, Flag(("--clearml-tag",), "TAG")] = Field(
        (), description="Tag of the task; may be repeated."
    )
    clearml_offline: Switch = Field(
        False, description="Record the task in an archive to import later; needs no server."
    )
    require_clearml: Switch = Field(
        False, description="Fail where ClearML cannot be used, instead of going on without it."
    )
    auto_connect_frameworks: Annotated[Switch, Flag(("--auto-connect/--no-auto-connect",))] = Field(
        True, description="Record repository, packages, console and machine load in ClearML."
    )


class ExperimentConfig(Section):
    """A whole experiment; `kind` is `quantized` (squeeze train) or `baseline`."""

    kind: Annotated[Kind, NO_FLAG] = Field(
        "quantized", description="quantized for squeeze train, baseline for squeeze baseline."
    )
    name: Annotated[
        str | None, Flag(("--name", "--experiment-name"), default="from quantizer and model")
    ] = Field(
        None,
        validation_alias=AliasChoices("name", "experiment_name"),
        description="Name of the run.",
    )
    output_dir: Annotated[str, Flag(metavar="DIR")] = Field(
        "runs", description="Folder of all runs."
    )
    quantizer: Annotated[QuantizerConfig, AsSection] = Field(default_factory=QuantizerConfig)
    model: Annotated[ModelConfig, AsSection] = Field(default_factory=ModelConfig)
    data: Annotated[DataConfig, AsSection] = Field(default_factory=DataConfig)
    training: Annotated[TrainingConfig, AsSection] = Field(default_factory=TrainingConfig)
    logger: Annotated[LoggerConfig, AsSection] = Field(default_factory=LoggerConfig)


def field_of(key: str) -> tuple[str, str, FieldInfo]:
    """Return section, name and definition of the field `section.field` of an experiment."""
    section, _, name = key.rpartition(".")
    whole = ExperimentConfig.model_fields
    known = option_type(whole[section]).model_fields if section else whole
    return section, name, known[name]
