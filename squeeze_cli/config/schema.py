"""Schema of an experiment: one immutable, validated model per section of the configuration.

Each field holds its default, its range, its description and, if it differs from the field's name, its
option. `options` makes the command line from the fields; docs/config.schema.json is their JSON schema.
A default of None may depend on other fields (the number of outputs on the classes, the codebook size on
the quantizer); `config.resolve` fills it in, also in a run's `config.yaml`.
"""

import functools
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, ValidationInfo

from squeeze_cli.config.classes import MOST_CLASSES, ClassTable, read_classes
from squeeze_cli.config.defaults import BOTTLENECK_DIM, CODEBOOK_SIZE, SMALL_CODEBOOK_SIZE
from squeeze_cli.config.fields import (
    AsList,
    AsSection,
    Flag,
    ImageSize,
    Section,
    Size,
    option_type,
    setting,
)
from squeeze_cli.config.parts import BACKBONES, DATASETS, HEADS, LOSSES, QUANTIZERS


def _check_count(value: object) -> object:
    if value != "auto" and not re.fullmatch("[1-9][0-9]{0,2}", str(value)):
        raise ValueError("must be 1 or more, or auto, and below 1000")
    return value


def _read_classes(value: object, info: ValidationInfo) -> ClassTable | None:
    """Return the table of classes, with `ignore_index`, the field before, among its ignored values."""
    table = read_classes(value)
    return table and table.ignoring(info.data.get("ignore_index"))


def _check_frozen(value: bool) -> bool:
    if not value:
        raise ValueError("must be true (unfreeze_last_layer trains the last layer)")
    return value


Fit = Literal["squash", "crop", "pad"]
Kind = Literal["quantized", "baseline"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Annotated[  # YAML reads 32 as a number
    Literal["32", "bf16"], BeforeValidator(lambda value: "32" if value == 32 else value)
]
Level = Annotated[int, Field(ge=3, le=2**20)]
Weight = Annotated[float, Field(ge=0, le=1e6)]


class QuantizerConfig(Section):
    """The quantizer, from feature vectors to codes; `type` decides which fields have an effect."""

    type: str = setting("vq", "How features become codes", "--quantizer", choices=QUANTIZERS)
    codes: Literal["faithful", "task", "plain"] = setting(
        "faithful",
        "Purpose: faithful (any task), task (the masks alone, in fewer bits, by fsq) or plain (a "
        "linear encoder); sets other defaults.", metavar="C",
    )  # fmt: skip
    codebook_size: int | None = setting(
        None,
        "Codes per codebook (vq, lfq, rvq, pq). "
        f"[default: {CODEBOOK_SIZE}; rvq, pq {SMALL_CODEBOOK_SIZE}; task 8]", ge=2, le=2**20,
    )  # fmt: skip
    bottleneck_dim: int = setting(BOTTLENECK_DIM, "Bottleneck channels.", ge=1)
    num_quantizers: int = setting(4, "Number of codebooks (rvq).", ge=1, le=256)
    quantizer_dropout: bool = setting(False, "Let the first codebooks be usable alone too (rvq).")
    num_groups: int = setting(4, "Parts of a vector, each with a codebook (pq).", ge=1, le=256)
    levels: Annotated[tuple[Level, ...] | None, AsList] = setting(
        None, "Levels per dimension (fsq). [default: 8,5,5,5; task 3,3]", metavar="N,...",
        min_length=1, max_length=32,
    )  # fmt: skip
    step_size: float | None = setting(
        None, "Quantization step (dct). [default: 0.85; task 1.7]", ge=0.05, le=1e3
    )  # fmt: skip
    codec: str = setting("PCA64,SQ8", "Codec of FAISS by its factory string (faiss).", metavar="C")
    decay: float = setting(0.99, "Decay of codebooks' moving averages (vq, rvq, pq).", ge=0, lt=1)
    commitment_weight: float = setting(
        0.25, "Weight of the commitment loss (vq, rvq, pq, lfq).", ge=0
    )
    entropy_loss_weight: float = setting(0.1, "Weight of the entropy loss (lfq).", ge=0)
    diversity_gamma: float = setting(
        0.1, "Weight of the even use of codes in the entropy loss (lfq).", ge=0
    )
    spherical: bool = setting(False, "Project to the unit sphere first (lfq).")
    vq_loss_weight: float = setting(0.1, "Weight of the quantizer's loss (vq, rvq, pq, lfq).", ge=0)
    initialize_codebook: bool = setting(
        True,
        "Initialize codebooks by k-means (vq, rvq, pq).",
        "--initialize-codebook/--random-codebook",
    )
    code_stride: int = setting(
        1, "Give one code to each N x N square of neighbouring vectors.", ge=1, le=8
    )
    rate_weight: float | None = setting(
        None, "Weight of the rate in the loss (vq, rvq, pq, dct). [default: by --codes]", ge=0
    )
    target_bits: float | None = setting(
        None, "Bits per vector on disk to reach (vq, rvq, pq, dct), in up to four trainings.",
        gt=0, le=64,
    )  # fmt: skip
    encoder_lr_factor: float | None = setting(
        None,
        "Factor on the learning rate before the codes: a small one gives fewer bits and a lower "
        "mean IoU. [default: 1; 0.3 for plain vq]", ge=0,
    )  # fmt: skip


class ModelConfig(Section):
    """The backbone, the parts that are trained on it, and the loss."""

    backbone: str = setting("vit", "Frozen backbone", "--model", choices=BACKBONES)
    layer: Annotated[tuple[Annotated[int, Field(ge=-1000, le=1000)], ...], AsList] = setting(
        (-1,), "Layers of a timm model, such as -1 (the last) or 2,5,8,11.",
        metavar="N,...", min_length=1, max_length=64,
    )  # fmt: skip
    num_classes: int | None = setting(
        None, "Number of outputs of the head. [default: one per class]", ge=2, le=MOST_CLASSES
    )
    head: str | None = setting(
        None, "Segmentation head [default: deeplab for deeplab, else conv]", choices=HEADS
    )
    freeze_backbone: Annotated[bool, AfterValidator(_check_frozen)] = setting(
        True, "Always true: squeeze works on frozen features; see unfreeze_last_layer.", ""
    )
    unfreeze_last_layer: bool = setting(
        False, "Train the backbone's last layer too.", "--unfreeze-last-layer/--freeze-last-layer"
    )
    weights: str = setting("default", "default (published), none (random) or a file.", metavar="W")
    vit_weights: str = setting(
        "IMAGENET1K_V1", "Name of the published weights of vit in torchvision.", ""
    )
    deeplab_weights: str = setting(
        "COCO_WITH_VOC_LABELS_V1", "Name of the published weights of deeplab in torchvision.", ""
    )
    encoder: Literal["linear", "conv"] | None = setting(
        None,
        "Encoder: linear, or conv, which also sees neighbours. [default: by --codes]", metavar="E",
    )  # fmt: skip
    reconstruction_weight: float | None = setting(
        None,
        "Weight of the squared error of decoded features in the loss. [default: by --codes]", ge=0,
    )  # fmt: skip
    distill: str | None = setting(None, "Folder of a baseline to distill from.", metavar="RUN")
    distill_weight: float = setting(
        1.0, "Weight of the divergence from the baseline's predictions.", ge=0
    )
    add_adapter: bool = setting(False, "Train an adapter on frozen features.")
    use_kernels: bool = setting(True, "Use equivalent, faster kernels and layers.", "--kernels")
    feature_dim: int | None = setting(
        None, "Project the features to N channels first. [default: no projection]", ge=1, le=2**14
    )
    loss_type: str | None = setting(
        None, "Loss [default: ce; reconstruction without masks]", "--loss", choices=LOSSES
    )
    cosine_weight: float = setting(0.0, "Weight of 1 - cosine similarity (reconstruction).", ge=0)
    class_weights: Annotated[tuple[Weight, ...] | None, AsList] = setting(
        None, "Loss weights of the classes, in their order. [default: all 1]", metavar="1,1,2",
        max_length=254,
    )  # fmt: skip

    @property
    def has_head(self) -> bool:
        """Whether masks are predicted; without a head, reconstruction alone trains the quantizer."""
        return self.loss_type != "reconstruction"


class DataConfig(Section):
    """Images or features, their size and splits, and the place of the feature store."""

    dataset: str | None = setting(
        None, "Data set [default: oxford-pet, unless --images or --features]", choices=DATASETS
    )
    data_dir: str = setting(
        "./data", "Folder that data sets are downloaded to, if missing.", metavar="DIR"
    )
    images: str | None = setting(None, "Folder of your own images.", metavar="DIR")
    masks: str | None = setting(None, "Folder of their masks, named as the images.", metavar="DIR")
    test_images: str | None = setting(None, "Folder of the test images.", metavar="DIR")
    test_masks: str | None = setting(None, "Folder of the test masks.", metavar="DIR")
    mask_suffix: str | None = setting(
        None, "End of the names of masks, such as _mask, or _photo=_mask for another end.",
        metavar="END", pattern="^[^/=]*(=[^/=]*)?$",
    )  # fmt: skip
    split_file: str | None = setting(
        None, "File of lines `NAME train|val|test`. [default: subfolders, or drawn by --seed]",
        metavar="FILE",
    )  # fmt: skip
    ignore_index: int | None = setting(
        None, "Mask value to ignore (with --images); -1 for none. [default: 255]", ge=-1, le=65535
    )
    classes: Annotated[ClassTable | None, BeforeValidator(_read_classes)] = setting(
        None, "YAML file of mask values, names and colours. [default: the values found]",
        metavar="FILE",
    )  # fmt: skip
    features: str | None = setting(None, "Features of another network.", metavar="PATH")
    feature_names: str | None = setting(
        None, "File of the names of their rows, one per line.", metavar="FILE"
    )
    image_size: ImageSize | None = setting(
        None,
        "Image size in pixels: a side, or height x width (480x640). "
        "[default: 224, or the timm model's]", metavar="N|HxW",
    )  # fmt: skip
    fit: Fit = setting(
        "squash",
        "How images of other proportions are fitted: squash, crop (the centre) or pad (right and "
        "bottom).", metavar="FIT",
    )  # fmt: skip
    subset_size: int | None = setting(None, "Use N images of trainval, at most N of test.", ge=5)
    num_workers: int | None = setting(
        None, "Number of images decoded at once. [default: one per core, at most 8]", ge=0, le=256
    )
    cache_dir: str | None = setting(
        None, "Folder of the stored features. [default: the platform's cache folder]", metavar="DIR"
    )
    use_cache: bool = setting(
        True, "Store features, so that each image passes the backbone once.", "--cache"
    )

    @property
    def has_features(self) -> bool:
        """Whether features of another network are given in place of images."""
        return self.features is not None

    @property
    def pixels(self) -> int | None:
        """Number of pixels per image; None where features are given."""
        return None if self.has_features else self.size_px[0] * self.size_px[1]

    @property
    def size_px(self) -> Size:
        """Height and width of the images; `config.resolve` has filled in their default."""
        assert self.image_size is not None
        height, _, width = str(self.image_size).partition("x")
        return int(height), int(width or height)

    @property
    def place(self) -> str:
        """Path of the images or features, or the name of a data set that reads no files."""
        name = str(self.dataset)
        own = self.data_dir if "data_dir" in DATASETS[name].options else name
        return self.features or self.images or own


class TrainingConfig(Section):
    """Length, learning rate and devices of the training; `docs/results.md` has the choice of `lr`."""

    epochs: int = setting(10, "Passes over the training images.", ge=1)
    batch_size: int = setting(4, "Images per step and device, 2 or more.", ge=2)
    lr: float = setting(1e-3, "Peak learning rate (one cycle).", gt=0, lt=10)
    max_batches: int | None = setting(None, "Stop each epoch after N batches.", ge=1)
    seed: int = setting(42, "Seed for all random numbers.", ge=0, lt=2**32)
    device: DeviceName = setting("auto", "Device: auto, cpu, cuda or mps.")
    precision: Precision = setting("32", "32, or bf16 (mixed precision).", metavar="P")
    devices: Annotated[int | Literal["auto"], BeforeValidator(_check_count)] = setting(
        1, "Number of devices, or auto for all.", metavar="N"
    )
    num_nodes: int = setting(1, "Number of machines.", ge=1)
    strategy: str = setting("auto", "Lightning's strategy.")


class LoggerConfig(Section):
    """Trackers, which receive the metrics in addition to the run record (docs/trackers.md)."""

    use_tensorboard: bool = setting(True, "Write TensorBoard events.", "--tensorboard")
    use_clearml: bool = setting(
        False, "Report to ClearML too (docs/trackers.md).", "--use-clearml/--no-clearml"
    )
    project_name: str = setting("squeeze", "Project in ClearML.", pattern=r"\S")
    task_name: str | None = setting(None, "Task in ClearML. [default: the run's name]")
    credentials_file: str | None = setting(
        None, "File that `squeeze clearml-init` wrote. [default: see docs/trackers.md]",
        "--credentials", metavar="FILE",
    )  # fmt: skip
    clearml_tags: Annotated[tuple[str, ...], AsList] = setting(
        (), "Tag of the task; may be repeated.", "--clearml-tag", metavar="TAG"
    )
    clearml_offline: bool = setting(False, "Record the task in an archive, for import.")
    require_clearml: bool = setting(False, "Fail where ClearML cannot be used.")
    auto_connect_frameworks: bool = setting(
        True, "Record repository, packages, console and machine load in ClearML.", "--auto-connect"
    )


class ExperimentConfig(Section):
    """A whole experiment; `kind` is `quantized` (squeeze train) or `baseline`."""

    kind: Kind = setting(
        "quantized", "quantized for squeeze train, baseline for squeeze baseline.", ""
    )
    name: str | None = setting(
        None, "Name of the run. [default: quantizer and model]",
        validation_alias=AliasChoices("name", "experiment_name"),
    )  # fmt: skip
    output_dir: str = setting("runs", "Folder of all runs.", metavar="DIR")
    quantizer: Annotated[QuantizerConfig, AsSection] = Field(default_factory=QuantizerConfig)
    model: Annotated[ModelConfig, AsSection] = Field(default_factory=ModelConfig)
    data: Annotated[DataConfig, AsSection] = Field(default_factory=DataConfig)
    training: Annotated[TrainingConfig, AsSection] = Field(default_factory=TrainingConfig)
    logger: Annotated[LoggerConfig, AsSection] = Field(default_factory=LoggerConfig)


SECTIONS: dict[str, type[Section]] = {
    "quantizer": QuantizerConfig, "model": ModelConfig, "training": TrainingConfig,
    "data": DataConfig, "logger": LoggerConfig, "": ExperimentConfig,
}  # fmt: skip
# All fields by `section.field`, or by `field` outside the sections.
FIELDS = {
    f"{section}.{name}".removeprefix("."): field
    for section, model in SECTIONS.items()
    for name, field in model.model_fields.items()
    if name not in SECTIONS
}


@functools.cache
def flag_of(key: str) -> Flag:
    """Return the option of the field `section.field`, with its name and metavar filled in."""
    field = FIELDS[key]
    (flag,) = (item for item in field.metadata if isinstance(item, Flag))
    kind, name, metavar = option_type(field), flag.name, flag.metavar
    if name is None:
        name = "--" + key.rpartition(".")[2].replace("_", "-")
    if kind is bool and name and "/" not in name:
        name += name.replace("--", "/--no-")
    return Flag(name, metavar or {int: "N", float: "X", bool: None}.get(kind, "NAME"))


def option_of(key: str) -> str:
    """Return the name of a field in messages: its option, or its key if it has no option."""
    return (flag_of(key).name or key).partition("/")[0]
