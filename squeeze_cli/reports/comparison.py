"""One row a run, from run records alone: what `squeeze compare` shows, sorts and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.runs import RunFolder

COMPARE_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ComparisonRow:
    """A run in figures; None where a run has none (yet). Documented in docs/run-record.md.

    `nominal_*` are computed from the codes' sizes, not measured. mIoU and accuracy are shares
    (0 to 1); the difference is this run's test mIoU less that of the baseline with the same
    backbone, weights and data (the mean over several such baselines).
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
    val_iou: float | None = None
    test_iou: float | None = None
    difference_to_baseline: float | None = None
    test_accuracy: float | None = None
    codebook_usage: float | None = None
    epochs: int | None = None
    seconds: float | None = None
    seed: int | None = None


SORTABLE = tuple(
    name for name in ComparisonRow.__dataclass_fields__ if name not in ("path", "problem")
)


def compare_runs(
    runs: Sequence[tuple[RunFolder, dict[str, Any] | SqueezeError]], sort: str | None = None
) -> list[ComparisonRow]:
    """A row for each run, by test mIoU (best first) or by the column `sort`; broken ones last.

    Raises UsageError for an unknown column.
    """
    baselines = _baseline_scores([r for _, r in runs if isinstance(r, dict)])
    rows = [_row(run, record, baselines) for run, record in runs]
    column = (sort or "test_iou").replace("-", "_")
    if column not in SORTABLE:
        raise UsageError(f"--sort {sort}: choose one of {', '.join(SORTABLE)}.")
    descending = column in ("val_iou", "test_iou", "difference_to_baseline", "test_accuracy",
                            "codebook_usage", "nominal_compression_ratio")  # fmt: skip
    known = [row for row in rows if getattr(row, column) is not None]
    unknown = [row for row in rows if getattr(row, column) is None]
    return sorted(known, key=lambda row: getattr(row, column), reverse=descending) + unknown


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
        return _read_row(run, record, baselines)
    except (KeyError, TypeError, AttributeError) as error:
        return ComparisonRow(run.name, str(run.path), "broken", f"{run.record_file} lacks {error}.")


def _read_row(
    run: RunFolder, record: dict[str, Any], baselines: dict[Any, list[float]]
) -> ComparisonRow:
    model, quantizer = record.get("model") or {}, record.get("quantizer") or {}
    val, test = record["metrics"]["val"] or {}, record["metrics"]["test"] or {}
    scores = baselines.get(_setting(record))
    difference = None
    if scores and test and record["kind"] != "baseline":
        difference = test["iou"] - sum(scores) / len(scores)
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
        val_iou=val.get("iou"),
        test_iou=test.get("iou"),
        difference_to_baseline=difference,
        test_accuracy=test.get("accuracy"),
        codebook_usage=min(usage) if usage else None,
        epochs=record["epochs"]["done"],
        seconds=record["seconds"]["total"],
        seed=record["seed"],
    )


def _setting(record: dict[str, Any]) -> Any:
    """What a baseline must share with a run to be compared: features and images, not the seed."""
    model, data = record.get("model"), record.get("data")
    if not model or not data:
        return None
    return (
        model["weights_digest"], data["dataset"], data["image_size_px"], data["subset_size"],
        data["test_images"],
    )  # fmt: skip


def _baseline_scores(records: Sequence[dict[str, Any]]) -> dict[Any, list[float]]:
    scores: dict[Any, list[float]] = {}
    for record in records:
        try:
            if record["kind"] == "baseline" and record["metrics"]["test"]:
                scores.setdefault(_setting(record), []).append(record["metrics"]["test"]["iou"])
        except (KeyError, TypeError):
            continue  # a broken record has no score; its own row says so
    return scores
