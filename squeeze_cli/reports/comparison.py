"""One row per run, from run records alone: what `squeeze compare` shows, sorts and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import NamedTuple

from squeeze_cli.config.record import RunRecord
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.runs import RunFolder

COMPARE_SCHEMA_VERSION = 1

FoundRun = tuple[RunFolder, RunRecord | SqueezeError]


class Setting(NamedTuple):
    """The features and test images that runs must share to be compared; their seeds may differ."""

    weights_digest: str
    dataset: str
    image_size_px: int
    subset_size: int | None
    test_images: int


@dataclass(frozen=True)
class ComparisonRow:
    """A run in figures; None where a run has none (yet). Documented in docs/run-record.md.

    `nominal_*` are computed from the codes' sizes, `measured_*` from the size of the file that
    holds the test split's codes, metadata and all. mIoU and accuracy are shares (0 to 1). The
    difference is this run's test mIoU less that of the baseline with the same backbone, weights
    and data (the mean over several such baselines), the retention its share of it. A run is on
    the Pareto front where no other on the same features and images has at most its measured bits
    and at least its test mIoU.
    """

    name: str
    path: str
    status: str
    problem: str | None = None
    kind: str | None = None
    model: str | None = None
    random_features: bool | None = None
    quantizer: str | None = None
    nominal_bits_per_vector: float | None = None
    nominal_compression_ratio: float | None = None
    measured_bits_per_vector: float | None = None
    measured_bytes_per_image: float | None = None
    measured_compression_ratio: float | None = None
    val_iou: float | None = None
    test_iou: float | None = None
    difference_to_baseline: float | None = None
    retention: float | None = None
    pareto_front: bool | None = None
    test_accuracy: float | None = None
    codebook_usage: float | None = None
    epochs: int | None = None
    seconds: float | None = None
    seed: int | None = None


SORTABLE = tuple(
    name for name in ComparisonRow.__dataclass_fields__ if name not in ("path", "problem")
)
BEST_IS_MOST = (
    "val_iou", "test_iou", "difference_to_baseline", "retention", "pareto_front", "test_accuracy",
    "codebook_usage", "nominal_compression_ratio", "measured_compression_ratio",
)  # fmt: skip


def compare_runs(runs: Sequence[FoundRun], sort: str | None = None) -> list[ComparisonRow]:
    """Return a row for each run, by test mIoU (best first) or by the column `sort`.

    Runs without a value in that column come last. Raises UsageError for an unknown column.
    """
    column = (sort or "test_iou").replace("-", "_")
    if column not in SORTABLE:
        raise UsageError(f"--sort {sort}: choose one of {', '.join(SORTABLE)}.")
    baselines = baseline_scores([record for _, record in runs if isinstance(record, RunRecord)])
    rows = _mark_front([_placed_row(run, record, baselines) for run, record in runs])
    known = [row for row in rows if getattr(row, column) is not None]
    unknown = [row for row in rows if getattr(row, column) is None]
    reverse = column in BEST_IS_MOST
    return sorted(known, key=lambda row: getattr(row, column), reverse=reverse) + unknown


def as_json(rows: Sequence[ComparisonRow]) -> dict[str, object]:
    """Return what `squeeze compare --json` prints."""
    return {
        "schema_version": COMPARE_SCHEMA_VERSION,
        "runs": [asdict(row) for row in rows],
    }


def setting(record: RunRecord) -> Setting | None:
    """The features and test images of a run; None before it is set up."""
    model, data = record.model, record.data
    if model is None or data is None:
        return None
    return Setting(
        model.weights_digest,
        data.dataset,
        data.image_size_px,
        data.subset_size,
        data.test_images,
    )


def baseline_scores(records: Sequence[RunRecord]) -> dict[Setting, list[float]]:
    """The test mIoU of the baselines in each setting."""
    scores: dict[Setting, list[float]] = {}
    for record in records:
        where, test = setting(record), record.metrics.test
        if record.kind == "baseline" and where is not None and test is not None:
            scores.setdefault(where, []).append(test.iou)
    return scores


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (rate, quality), whether no other has at most its rate and at least its quality.

    Lower rates and higher qualities are better; of equal points all are on the front.
    """

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    return [not any(beats(other, point) for other in points) for point in points]


def _placed_row(
    run: RunFolder, record: RunRecord | SqueezeError, baselines: dict[Setting, list[float]]
) -> tuple[ComparisonRow, Setting | None]:
    """The row of a run without its mark, and its setting."""
    if isinstance(record, SqueezeError):
        return ComparisonRow(run.name, str(run.path), "broken", str(record)), None
    where = setting(record)
    scores = baselines.get(where, []) if where and record.kind != "baseline" else []
    return _row(run, record, mean(scores) if scores else None), where


def _row(run: RunFolder, record: RunRecord, reference: float | None) -> ComparisonRow:
    model, quantizer = record.model, record.quantizer
    val, test = record.metrics.val, record.metrics.test
    measured = record.measured.test if record.measured else None
    difference = retention = None
    if test and reference is not None:
        difference = test.iou - reference
        retention = test.iou / reference if reference else None
    quantizer_name = quantizer.type if quantizer else None
    return ComparisonRow(
        name=run.name,
        path=str(run.path),
        status=record.status,
        problem=record.error,
        kind=record.kind,
        model=model.backbone if model else None,
        random_features=model.random_features if model else None,
        quantizer="baseline" if record.kind == "baseline" else quantizer_name,
        nominal_bits_per_vector=quantizer.nominal_bits_per_vector if quantizer else None,
        nominal_compression_ratio=quantizer.nominal_compression_ratio if quantizer else None,
        measured_bits_per_vector=measured.bits_per_vector if measured else None,
        measured_bytes_per_image=measured.bytes_per_image if measured else None,
        measured_compression_ratio=measured.compression_ratio if measured else None,
        val_iou=val.iou if val else None,
        test_iou=test.iou if test else None,
        difference_to_baseline=difference,
        retention=retention,
        test_accuracy=test.accuracy if test else None,
        codebook_usage=min(test.codebook_usage) if test and test.codebook_usage else None,
        epochs=record.epochs.done,
        seconds=record.seconds.total,
        seed=record.seed,
    )


def _mark_front(
    placed: Sequence[tuple[ComparisonRow, Setting | None]],
) -> list[ComparisonRow]:
    """The rows, those with measured bits marked as on their setting's Pareto front or not."""
    groups: dict[Setting | None, list[tuple[float, float]]] = {}
    for row, where in placed:
        if (point := _point(row)) is not None:
            groups.setdefault(where, []).append(point)
    fronts = {
        where: {point for point, best in zip(points, on_front(points), strict=True) if best}
        for where, points in groups.items()
    }
    return [
        row if (point := _point(row)) is None else replace(row, pareto_front=point in fronts[where])
        for row, where in placed
    ]


def _point(row: ComparisonRow) -> tuple[float, float] | None:
    bits, iou = row.measured_bits_per_vector, row.test_iou
    return None if row.status != "finished" or bits is None or iou is None else (bits, iou)
