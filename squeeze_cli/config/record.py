"""Models of the run record, `run.json`, and of the JSON of commands (docs/run-record.md)."""

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from squeeze_cli.config.fields import reason_of, size_text
from squeeze_cli.config.schema import Kind
from squeeze_cli.errors import SqueezeError
from squeeze_cli.files import read_json

SCHEMA_VERSION = 1

Status = Literal["running", "finished", "interrupted", "failed"]


def _finite_or_none(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# A diverged run has losses that are not finite. JSON cannot hold them: they become null.
Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
# Memory is allocated by these sizes. The limits are far above the sizes of any run.
_Size = Annotated[int, Field(ge=1, le=2**20)]
_Sides = Annotated[list[Annotated[int, Field(ge=0, le=2**14)]], Field(min_length=2, max_length=2)]


class _Part(BaseModel):
    """Base of the record's parts: strictly typed; unknown fields, of other versions, are ignored."""

    model_config = ConfigDict(
        strict=True, validate_assignment=True, allow_inf_nan=False, defer_build=True
    )


class Epochs(_Part):
    """Number of epochs; `best` is the index, from 0, of the epoch in `best.ckpt`."""

    planned: int
    done: int
    best: int | None = None


class SplitMetrics(_Part):
    """Metrics of one split; shares are 0 to 1, `codebook_*` has one value per code of a vector.

    A run with a segmentation head has `iou`, `accuracy` and `per_class_iou`; a quantized run whose
    features are decoded has `mse`, `cosine` and `sqnr_db`. `squeeze evaluate` adds `neighbours_*`.
    """

    segmentation_loss: Number = None
    reconstruction_loss: Number = None
    distill_loss: Number = None
    rate_loss: Number = None
    prior_loss: Number = None
    vq_loss: Number = None
    loss: Number = None
    loss_ce: Number = None
    loss_dice: Number = None
    loss_focal: Number = None
    iou: Number = None
    accuracy: Number = None
    per_class_iou: list[Number] | None = None
    mse: Number = None
    cosine: Number = None
    sqnr_db: Number = None
    neighbours_images: Number = None
    neighbours_patches: Number = None
    codebook_usage: list[float] | None = None
    codebook_perplexity: list[float] | None = None


class Metrics(_Part):
    """Metrics of the best epoch's weights; None until the end of the training."""

    train: SplitMetrics | None = None
    val: SplitMetrics | None = None
    test: SplitMetrics | None = None


class EpochMetrics(_Part):
    """Metrics of one epoch; `train` is measured while the weights change."""

    epoch: int
    train: SplitMetrics
    val: SplitMetrics


class Seconds(_Part):
    """Wall time of each stage in seconds; all but `codes` are sums over resumptions."""

    features: float
    fit: float
    total: float
    codes: float | None = None


class DataDescription(_Part):
    """Description of the data: data set, size of the images, and digests.

    `image_size_px` is a side, or height and width, or None where features are given. `digest` is of
    names and contents of all splits, `val_digest` and `test_digest` of one split; `part_digests` has
    separate digests of `names`, `images` and `masks`. `skipped` has `name` and `reason` of the first
    images that could not be read.
    """

    dataset: str
    digest: str
    image_size_px: _Size | _Sides | None
    fit: str = "squash"  # older records have none
    subset_size: int | None
    train_images: int
    val_images: int
    test_images: int
    skipped_images: int
    skipped: list[dict[str, str]]
    # Older records have none of these.
    val_digest: str | None = None
    test_digest: str | None = None
    classes: list[str] = Field(default_factory=list)
    part_digests: dict[str, str] = Field(default_factory=dict)

    @property
    def size_text(self) -> str:
        """Size of the images as `--image-size` takes it: `224`, or `480x640`; "" without images."""
        return size_text(self.image_size_px) if self.image_size_px else ""


class ModelDescription(_Part):
    """Description of the backbone, of the trained parts, and the number of trainable parameters."""

    backbone: str
    weights: str
    random_features: bool
    weights_digest: str
    feature_dim: _Size
    quantized_dim: _Size
    num_classes: _Size | None
    layers: list[int] | None = None  # of a timm model
    head: str | None = None  # None in the first records: the backbone's default
    loss: str
    encoder: str = "linear"  # older records have none
    add_adapter: bool
    unfreeze_last_layer: bool
    head_expects_raw_features: bool = False  # the first records have none
    trainable_parameters: int
    teacher_digest: str | None = None  # of the baseline of --distill; older records have none


class QuantizerDescription(_Part):
    """Sizes and nominal rate of the codes; `encoder_flops` from the features of an image to its codes."""

    type: str
    code_sizes: list[_Size]
    bottleneck_dim: _Size | None
    grid: _Sides
    nominal_bits_per_vector: float
    nominal_bytes_per_image: float
    nominal_compression_ratio: float
    encoder_flops: int | None = None  # older records have none


class MeasuredSplit(_Part):
    """Sizes of one split's codes file; all bytes of the file count.

    Feature points are all values of the backbone's features, pixels all pixels of its input.
    """

    coding: Literal["prior", "packed"]
    images: int
    vectors: int
    file_bytes: int
    payload_bytes: int
    bits_per_vector: float
    payload_bits_per_vector: float
    prior_cross_entropy_bits: float | None
    bits_per_feature_point: float | None = None  # the first records have neither
    bits_per_pixel: float | None = None
    bytes_per_image: float
    compression_ratio: float
    file: str


class DecoderBytes(_Part):
    """Sizes of the parts of the decoder, which is needed once for all images."""

    codebook_bytes: int
    projection_bytes: int
    prior_bytes: int

    @property
    def total(self) -> int:
        """Sum of all parts in bytes."""
        return self.codebook_bytes + self.projection_bytes + self.prior_bytes


class Measured(_Part):
    """Sizes of the codes files of `val` and `test` and of the decoder, and the prior's digest."""

    val: MeasuredSplit
    test: MeasuredSplit
    decoder: DecoderBytes
    prior_digest: str | None = None  # older records have none


class LevelsRecord(_Part):
    """Metrics and file sizes of the first levels of rvq alone."""

    levels: int
    val: SplitMetrics
    test: SplitMetrics
    measured: Measured


class RunRecord(_Part):
    """Record of one run; parts are None until they are known, and `measured` without codes."""

    schema_version: int = SCHEMA_VERSION
    name: str
    kind: Kind
    status: Status
    error: str | None = None
    warnings: list[str] = Field(default_factory=list)  # older records have none
    created: str | None = None
    seed: int
    epochs: Epochs
    metrics: Metrics
    history: list[EpochMetrics] = Field(default_factory=list)
    seconds: Seconds
    versions: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, JsonValue] = Field(default_factory=dict)  # older records have none
    data: DataDescription | None = None
    model: ModelDescription | None = None
    quantizer: QuantizerDescription | None = None
    digest: str | None = None
    measured: Measured | None = None
    first_levels: list[LevelsRecord] = Field(default_factory=list)  # with quantizer dropout
    updated: str | None = None

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a record; SqueezeError where it is missing, damaged or of a newer version."""
        try:
            content = read_json(file)
            if content.get("schema_version") != SCHEMA_VERSION:
                raise SqueezeError(
                    f"{file} is not a run record of schema version {SCHEMA_VERSION}: update squeeze if "
                    "it is newer."
                )
            return cls.model_validate(content)
        except FileNotFoundError:
            raise SqueezeError(
                f"{file.parent} holds no {file.name}: is it a run's folder?"
            ) from None
        except OSError as error:
            raise SqueezeError(
                f"{file} cannot be read ({reason_of(error)}): make it a readable file, or train the run "
                "again."
            ) from None
        except ValueError as error:
            raise SqueezeError(
                f"{file} is damaged ({reason_of(error)}): train the run again."
            ) from None

    def of_levels(self, part: LevelsRecord) -> Self:
        """Return the record as if the run had only the first levels, as measured in `part`."""
        assert self.quantizer is not None
        share = part.levels / len(self.quantizer.code_sizes)
        described = self.quantizer.model_copy()
        described.code_sizes = described.code_sizes[: part.levels]
        described.nominal_bits_per_vector *= share
        described.nominal_bytes_per_image *= share
        described.nominal_compression_ratio /= share
        metrics = self.metrics.model_copy(update={"val": part.val, "test": part.test})
        changed = {"quantizer": described, "metrics": metrics, "measured": part.measured}
        return self.model_copy(update={**changed, "first_levels": []})

    def to_json(self, updated: str) -> str:
        """Return the content of `run.json`; fields that were never set are left out."""
        stamped = self.model_copy(update={"schema_version": SCHEMA_VERSION, "updated": updated})
        return stamped.model_dump_json(indent=2, exclude_unset=True) + "\n"


class FinishedRecord(RunRecord):
    """Record whose descriptions are complete, because the run was set up."""

    data: DataDescription
    model: ModelDescription
    quantizer: QuantizerDescription


class ProbeResult(BaseModel, defer_build=True):
    """Test accuracy of linear probes on `original` and `decoded` features, and numbers of their data."""

    original: float
    decoded: float
    labels: int
    train_images: int
    images: int


class EvaluationResult(BaseModel, defer_build=True):
    """Metrics of a run on a split; docs/run-record.md describes the fields."""

    run: str
    split: str
    data_dir: str
    classes: list[str]
    images: int
    skipped_images: int
    levels: int | None = None
    metrics: SplitMetrics
    probe: ProbeResult | None = None
