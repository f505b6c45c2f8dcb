"""One row a run, from run records alone: what `squeeze compare` shows, sorts and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from types import NoneType
from typing import Any

from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.reports.pareto import on_front
from squeeze_cli.runs import RunFolder

COMPARE_SCHEMA_VERSION = 1


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


def compare_runs(
    runs: Sequence[tuple[RunFolder, dict[str, Any] | SqueezeError]], sort: str | None = None
) -> list[ComparisonRow]:
    """A row for each run, by test mIoU (best first) or by the column `sort`; broken ones last.

    Raises UsageError for an unknown column.
    """
    baselines = baseline_scores([r for _, r in runs if isinstance(r, dict)])
    rows = _mark_front(
        [(_row(run, record, baselines), known_setting(record)) for run, record in runs]
    )
    column = (sort or "test_iou").replace("-", "_")
    if column not in SORTABLE:
        raise UsageError(f"--sort {sort}: choose one of {', '.join(SORTABLE)}.")
    known = [row for row in rows if getattr(row, column) is not None]
    unknown = [row for row in rows if getattr(row, column) is None]
    reverse = column in BEST_IS_MOST
    return sorted(known, key=lambda row: getattr(row, column), reverse=reverse) + unknown


def as_json(rows: Sequence[ComparisonRow]) -> dict[str, Any]:
    """What `squeeze compare --json` prints."""
    return {
        "schema_version": COMPARE_SCHEMA_VERSION,
        "runs": [asdict(row) for row in rows],
    }


def _row(
    run: RunFolder, record: dict[str, Any] | SqueezeError, baselines: dict[Any, list[float]]
) -> ComparisonRow:
    if isinstance(record, SqueezeError):
        return ComparisonRow(run.name, str(run.path), "broken", str(record))
    try:
        row = _read_row(run, record, baselines)
        _require_numbers(row)
        return row
    except KeyError as error:
        problem = f"{run.record_file} lacks {error}."
    except (TypeError, AttributeError):
        problem = f"{run.record_file} is damaged: an entry is not what its name says."
    return ComparisonRow(run.name, str(run.path), "broken", problem)


def _read_row(
    run: RunFolder, record: dict[str, Any], baselines: dict[Any, list[float]]
) -> ComparisonRow:
    model, quantizer = record.get("model") or {}, record.get("quantizer") or {}
    val, test = record["metrics"]["val"] or {}, record["metrics"]["test"] or {}
    measured = measured_test(record) or {}
    scores = baselines.get(setting(record))
    difference = retention = None
    if scores and test and record["kind"] != "baseline":
        reference = sum(scores) / len(scores)
        difference = test["iou"] - reference
        retention = test["iou"] / reference if reference else None
    usage = test.get("codebook_usage")
    return ComparisonRow(
        name=run.name,
        path=str(run.path),
        status=record["status"],
        problem=record.get("error"),
        kind=record["kind"],
        model=model.get("backbone"),
        random_features=model.get("random_features"),
        quantizer=quantizer.get("type") if record["kind"] != "baseline" else "baseline",
        nominal_bits_per_vector=quantizer.get("nominal_bits_per_vector"),
        nominal_compression_ratio=quantizer.get("nominal_compression_ratio"),
        measured_bits_per_vector=measured.get("bits_per_vector"),
        measured_bytes_per_image=measured.get("bytes_per_image"),
        measured_compression_ratio=measured.get("compression_ratio"),
        val_iou=val.get("iou"),
        test_iou=test.get("iou"),
        difference_to_baseline=difference,
        retention=retention,
        test_accuracy=test.get("accuracy"),
        codebook_usage=min(usage) if usage else None,
        epochs=record["epochs"]["done"],
        seconds=record["seconds"]["total"],
        seed=record["seed"],
    )


def _require_numbers(row: ComparisonRow) -> None:
    for field in fields(row):
        value = getattr(row, field.name)
        if field.type in ("float | None", "int | None") and not isinstance(
            value, (int, float, NoneType)
        ):
            raise TypeError(field.name)


def _mark_front(placed: Sequence[tuple[ComparisonRow, Any]]) -> list[ComparisonRow]:
    """The rows, those with measured bits marked as on their setting's Pareto front or not."""
    groups: dict[Any, list[tuple[float, float]]] = {}
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


def setting(record: Mapping[str, Any]) -> Any:
    """What runs must share to be compared: features and test images, not the seed. None: unknown.

    Raises KeyError for a record that lacks it in part.
    """
    model, data = record.get("model"), record.get("data")
    if not model or not data:
        return None
    return (
        model["weights_digest"], data["dataset"], data["image_size_px"], data["subset_size"],
        data["test_images"],
    )  # fmt: skip


def known_setting(record: Mapping[str, Any] | SqueezeError) -> Any:
    """As `setting`, and None for a record that cannot be read or lacks it."""
    try:
        return None if isinstance(record, SqueezeError) else setting(record)
    except (KeyError, TypeError, AttributeError):
        return None  # a broken record; its own row says so


def measured_test(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was measured of the file of the test split's codes; None for runs without codes."""
    measured: dict[str, Any] | None = (record.get("measured") or {}).get("test")
    return measured


def baseline_scores(records: Sequence[dict[str, Any]]) -> dict[Any, list[float]]:
    """The test mIoU of the baselines of each setting."""
    scores: dict[Any, list[float]] = {}
    for record in records:
        try:
            if record["kind"] == "baseline" and record["metrics"]["test"]:
                scores.setdefault(setting(record), []).append(
                    0.0 + record["metrics"]["test"]["iou"]
                )
        except (KeyError, TypeError):
            continue  # a broken record has no score; its own row says so
    return scores
