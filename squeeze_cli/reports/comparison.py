"""One row per run, from run records alone: what `squeeze compare` shows, sorts and writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
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
    """The figures of one run, None where it has none (yet); see docs/run-record.md.

    Attributes:
        nominal_bits_per_vector, nominal_compression_ratio: computed from the codes' sizes.
        measured_bits_per_vector, measured_bytes_per_image, measured_compression_ratio: computed
            from the size of the whole file that holds the test split's codes.
        val_iou, test_iou, test_accuracy: shares (0 to 1).
        difference_to_baseline: test mIoU minus the mean of the baselines in the same setting.
        retention: test mIoU as a share of that mean.
        pareto_front: whether no other run in the same setting has at most the same measured bits
            and at least the same test mIoU.
        codebook_usage: share of codes in use on test images, of the least used codebook.
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


SORTABLE = tuple(f.name for f in fields(ComparisonRow) if f.name not in ("path", "problem"))
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
    placed = [
        (ComparisonRow(run.name, str(run.path), "broken", str(record)), None)
        if isinstance(record, SqueezeError)
        else (_row(run, record, baselines), setting(record))
        for run, record in runs
    ]
    rows = _mark_front(placed)
    known = [row for row in rows if getattr(row, column) is not None]
    unknown = [row for row in rows if getattr(row, column) is None]
    reverse = column in BEST_IS_MOST
    return sorted(known, key=lambda row: getattr(row, column), reverse=reverse) + unknown


def as_json(rows: Sequence[ComparisonRow]) -> dict[str, object]:
    """Return what `squeeze compare --json` prints."""
    return {"schema_version": COMPARE_SCHEMA_VERSION, "runs": [asdict(row) for row in rows]}


def setting(record: RunRecord) -> Setting | None:
    """The features and test images of a run; None before it is set up."""
    model, data = record.model, record.data
    if model is None or data is None:
        return None
    size, subset = data.image_size_px, data.subset_size
    return Setting(model.weights_digest, data.dataset, size, subset, data.test_images)


def baseline_scores(records: Sequence[RunRecord]) -> dict[Setting | None, list[float]]:
    """The test mIoU of the baselines in each setting."""
    scores: dict[Setting | None, list[float]] = {}
    for record in records:
        if record.kind == "baseline" and (test := record.metrics.test):
            scores.setdefault(setting(record), []).append(test.iou)
    return scores


def on_front(point: tuple[float, float], points: Iterable[tuple[float, float]]) -> bool:
    """Whether none of `points` has at most the rate of `point` and at least its quality.

    A point is (rate, quality); lower rates and higher qualities are better, equals do not count.
    """
    return not any(
        other != point and other[0] <= point[0] and other[1] >= point[1] for other in points
    )


def _row(
    run: RunFolder, record: RunRecord, baselines: dict[Setting | None, list[float]]
) -> ComparisonRow:
    model, quantizer = record.model, record.quantizer
    val, test = record.metrics.val, record.metrics.test
    measured = record.measured.test if record.measured else None
    scores = baselines.get(setting(record), [])
    reference = mean(scores) if scores and test and record.kind != "baseline" else None
    name = "baseline" if record.kind == "baseline" else quantizer.type if quantizer else None
    return ComparisonRow(
        name=run.name,
        path=str(run.path),
        status=record.status,
        problem=record.error,
        kind=record.kind,
        model=model.backbone if model else None,
        random_features=model.random_features if model else None,
        quantizer=name,
        nominal_bits_per_vector=quantizer.nominal_bits_per_vector if quantizer else None,
        nominal_compression_ratio=quantizer.nominal_compression_ratio if quantizer else None,
        measured_bits_per_vector=measured.bits_per_vector if measured else None,
        measured_bytes_per_image=measured.bytes_per_image if measured else None,
        measured_compression_ratio=measured.compression_ratio if measured else None,
        val_iou=val.iou if val else None,
        test_iou=test.iou if test else None,
        difference_to_baseline=test.iou - reference if test and reference is not None else None,
        retention=test.iou / reference if test and reference else None,
        test_accuracy=test.accuracy if test else None,
        codebook_usage=min(test.codebook_usage) if test and test.codebook_usage else None,
        epochs=record.epochs.done,
        seconds=record.seconds.total,
        seed=record.seed,
    )


def _mark_front(placed: Sequence[tuple[ComparisonRow, Setting | None]]) -> list[ComparisonRow]:
    """Return the rows, those with measured bits marked as on their setting's front or not."""
    points: dict[Setting | None, list[tuple[float, float]]] = {}
    for row, where in placed:
        if point := _point(row):
            points.setdefault(where, []).append(point)
    return [
        replace(row, pareto_front=on_front(point, points[where])) if (point := _point(row)) else row
        for row, where in placed
    ]


def _point(row: ComparisonRow) -> tuple[float, float] | None:
    bits, iou = row.measured_bits_per_vector, row.test_iou
    return None if row.status != "finished" or bits is None or iou is None else (bits, iou)
