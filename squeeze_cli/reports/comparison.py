"""One row per run, from run records alone: what `squeeze compare` shows, sorts and writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import mean
from typing import TypeVar

from squeeze_cli.config.record import RunRecord
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.runs import RunFolder

COMPARE_SCHEMA_VERSION = 1

FoundRun = tuple[RunFolder, RunRecord | SqueezeError]
Setting = tuple[object, ...]
Point = tuple[float, float]  # measured bits per vector and mean IoU of the test images
Value = TypeVar("Value")


@dataclass(frozen=True)
class ComparisonRow:
    """The figures of one run, None where it has none (yet); docs/run-record.md describes them.

    Rates that are called measured count the whole file of the test split's codes, nominal ones are
    computed from the codes' sizes. Shares, and differences of them, are 0 to 1.
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
    baselines, points = by_setting(runs, baseline_iou), by_setting(runs, rate_and_iou)
    rows = [
        ComparisonRow(run.name, str(run.path), "broken", str(record))
        if isinstance(record, SqueezeError)
        else _row(run, record, baselines.get(setting(record)), points.get(setting(record), ()))
        for run, record in runs
    ]
    known = [row for row in rows if getattr(row, column) is not None]
    unknown = [row for row in rows if getattr(row, column) is None]
    reverse = column in BEST_IS_MOST
    return sorted(known, key=lambda row: getattr(row, column), reverse=reverse) + unknown


def as_json(rows: Sequence[ComparisonRow]) -> dict[str, object]:
    """Return what `squeeze compare --json` prints."""
    return {"schema_version": COMPARE_SCHEMA_VERSION, "runs": [asdict(row) for row in rows]}


def setting(record: RunRecord) -> Setting | None:
    """Return what runs must share to be compared: features and test images, but not the seed.

    None for a run that was not set up.
    """
    model, data = record.model, record.data
    if model is None or data is None:
        return None
    images = (data.dataset, data.image_size_px, data.subset_size, data.test_images)
    return (model.weights_digest, *images)


def by_setting(
    runs: Iterable[FoundRun], value: Callable[[RunRecord], Value | None]
) -> Mapping[Setting | None, list[Value]]:
    """Return the values of the runs in each setting, without None; broken runs have none."""
    groups: dict[Setting | None, list[Value]] = defaultdict(list)
    for _, record in runs:
        if isinstance(record, RunRecord) and (found := value(record)) is not None:
            groups[setting(record)].append(found)
    return groups


def baseline_iou(record: RunRecord) -> float | None:
    """Return the test mIoU of a baseline; None for other runs and before it is tested."""
    test = record.metrics.test
    return test.iou if test and record.kind == "baseline" else None


def rate_and_iou(record: RunRecord) -> Point | None:
    """Return the point of a finished run; None for a run without codes."""
    measured, test = record.measured, record.metrics.test
    if record.status != "finished" or measured is None or test is None:
        return None
    return measured.test.bits_per_vector, test.iou


def on_front(point: Point, points: Iterable[Point]) -> bool:
    """Return whether no different point has at most the bits and at least the mean IoU of `point`."""
    return not any(
        other != point and other[0] <= point[0] and other[1] >= point[1] for other in points
    )


def _row(
    run: RunFolder, record: RunRecord, baselines: Sequence[float] | None, points: Sequence[Point]
) -> ComparisonRow:
    model, quantizer = record.model, record.quantizer
    val, test = record.metrics.val, record.metrics.test
    measured = record.measured.test if record.measured else None
    is_baseline = record.kind == "baseline"
    reference = mean(baselines) if baselines and test and not is_baseline else None
    point = rate_and_iou(record)
    return ComparisonRow(
        name=run.name,
        path=str(run.path),
        status=record.status,
        problem=record.error,
        kind=record.kind,
        model=model.backbone if model else None,
        random_features=model.random_features if model else None,
        quantizer="baseline" if is_baseline else quantizer.type if quantizer else None,
        nominal_bits_per_vector=quantizer.nominal_bits_per_vector if quantizer else None,
        nominal_compression_ratio=quantizer.nominal_compression_ratio if quantizer else None,
        measured_bits_per_vector=measured.bits_per_vector if measured else None,
        measured_bytes_per_image=measured.bytes_per_image if measured else None,
        measured_compression_ratio=measured.compression_ratio if measured else None,
        val_iou=val.iou if val else None,
        test_iou=test.iou if test else None,
        difference_to_baseline=test.iou - reference if test and reference is not None else None,
        retention=test.iou / reference if test and reference else None,
        pareto_front=on_front(point, points) if point else None,
        test_accuracy=test.accuracy if test else None,
        codebook_usage=min(test.codebook_usage) if test and test.codebook_usage else None,
        epochs=record.epochs.done,
        seconds=record.seconds.total,
        seed=record.seed,
    )
