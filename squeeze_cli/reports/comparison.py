"""Comparison of runs by their records: rows, table, CSV and Markdown."""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import mean
from typing import Any

from pydantic import AliasPath, BaseModel, ConfigDict, Field
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from squeeze_cli.config.parts import choose_head
from squeeze_cli.config.record import RunRecord
from squeeze_cli.console import printable
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.reports.tables import MISSING, duration, fixed, number, percent, plain_table
from squeeze_cli.runs import FoundRun, RunFolder, with_levels

COMPARE_SCHEMA_VERSION = 1
LEAST_TEXT_WIDTH = 10

Setting = tuple[object, ...] | None  # None for a run that was not set up
Point = tuple[float, float]  # measured bits per vector and quality of the test images


def _recorded(*path: str) -> Any:
    """Return a field with the value at this path in a run record, or None if it is missing."""
    return Field(None, validation_alias=AliasPath(*path))


class ComparisonRow(BaseModel, defer_build=True):
    """Figures of one run, None if they are unknown; docs/run-record.md describes them.

    Measured rates count the whole file of the test split's codes, nominal ones are computed from
    the codes' sizes. Shares and their differences lie between 0 and 1. MSE, cosine similarity and
    SQNR compare normalized features before and after quantization.
    """

    model_config = ConfigDict(from_attributes=True, frozen=True)

    name: str
    path: str = ""
    status: str
    problem: str | None = _recorded("error")
    kind: str | None = None
    model: str | None = _recorded("model", "backbone")
    random_features: bool | None = _recorded("model", "random_features")
    quantizer: str | None = _recorded("quantizer", "type")
    codec: str | None = None
    levels: int | None = None
    nominal_bits_per_vector: float | None = _recorded("quantizer", "nominal_bits_per_vector")
    nominal_compression_ratio: float | None = _recorded("quantizer", "nominal_compression_ratio")
    measured_bits_per_vector: float | None = _recorded("measured", "test", "bits_per_vector")
    measured_bits_per_feature_point: float | None = _recorded(
        "measured", "test", "bits_per_feature_point"
    )
    measured_bits_per_pixel: float | None = _recorded("measured", "test", "bits_per_pixel")
    measured_bytes_per_image: float | None = _recorded("measured", "test", "bytes_per_image")
    measured_compression_ratio: float | None = _recorded("measured", "test", "compression_ratio")
    encoder_flops: int | None = _recorded("quantizer", "encoder_flops")
    val_iou: float | None = _recorded("metrics", "val", "iou")
    test_iou: float | None = _recorded("metrics", "test", "iou")
    difference_to_baseline: float | None = None
    retention: float | None = None
    pareto_front: bool | None = None
    test_accuracy: float | None = _recorded("metrics", "test", "accuracy")
    val_mse: float | None = _recorded("metrics", "val", "mse")
    test_mse: float | None = _recorded("metrics", "test", "mse")
    test_cosine: float | None = _recorded("metrics", "test", "cosine")
    test_sqnr_db: float | None = _recorded("metrics", "test", "sqnr_db")
    codebook_usage: float | None = None
    epochs: int | None = _recorded("epochs", "done")
    seconds: float | None = _recorded("seconds", "total")
    seed: int | None = None


FIELDS = tuple(ComparisonRow.model_fields)
BEST_IS_MOST = (
    "val_iou", "test_iou", "difference_to_baseline", "retention", "pareto_front", "test_accuracy",
    "test_cosine", "test_sqnr_db", "codebook_usage", "nominal_compression_ratio",
    "measured_compression_ratio",
)  # fmt: skip


def compare_runs(runs: Sequence[FoundRun], sort: str | None = None) -> list[ComparisonRow]:
    """Return a row for each run, the best first: by test mIoU, then by test MSE, or by column `sort`.

    Runs without a value in that column are last. Raises UsageError for an unknown column.
    """
    columns = [sort.replace("-", "_")] if sort else ["test_iou", "test_mse"]
    if columns[0] not in FIELDS:
        raise UsageError(f"--sort {sort}: choose one of {', '.join(FIELDS)}.")
    runs = with_levels(runs)
    groups = by_setting(runs)
    rows = [
        ComparisonRow.model_validate(
            {"name": run.name, "path": str(run.path), "status": "broken", "error": str(record)}
        )
        if isinstance(record, SqueezeError)
        else _row(run, record, groups[setting(record)])
        for run, record in runs
    ]
    ordered: list[ComparisonRow] = []
    for column in columns:
        known = [row for row in rows if getattr(row, column) is not None]
        rows = [row for row in rows if getattr(row, column) is None]
        ordered += sorted(known, key=attrgetter(column), reverse=column in BEST_IS_MOST)
    return ordered + rows


def _row(run: RunFolder, record: RunRecord, comparable: Sequence[RunRecord]) -> ComparisonRow:
    computed: dict[str, object] = {"name": run.name, "path": str(run.path)}
    test, baselines = record.metrics.test, baseline_ious(comparable)
    if levels := _levels_of(record):
        computed |= {"name": f"{run.name}, --levels {levels}", "levels": levels}
    if record.kind == "baseline":
        computed["quantizer"] = "baseline"
    elif test and test.iou is not None and baselines:
        reference = mean(baselines)
        computed["difference_to_baseline"] = test.iou - reference
        computed["retention"] = test.iou / reference if reference else None
    if record.settings.get("quantizer.type") == "faiss":
        computed["codec"] = record.settings.get("quantizer.codec")
    if point := rate_and_quality(record):
        points = filter(None, map(rate_and_quality, comparable))
        computed["pareto_front"] = on_front(point, points)
    if test and test.codebook_usage:
        computed["codebook_usage"] = min(test.codebook_usage)
    return ComparisonRow.model_validate(record).model_copy(update=computed)


def _levels_of(record: RunRecord) -> int | None:
    """Return the number of levels of a record that `with_levels` has made, or None for other records."""
    own, described = record.settings.get("quantizer.num_quantizers"), record.quantizer
    if described is None or described.type != "rvq" or not isinstance(own, int):
        return None
    return count if (count := len(described.code_sizes)) < own else None


def setting(record: RunRecord) -> Setting:
    """Return the properties of features, head and test images that comparable runs share."""
    model, data = record.model, record.data
    if model is None or data is None:
        return None
    head = None
    if model.loss != "reconstruction":
        head = choose_head(model.head, model.backbone)
    test = (data.dataset, data.test_images, data.test_digest, tuple(data.classes))
    images = (*test, data.size_text, data.fit, data.subset_size)
    return (model.backbone, model.weights_digest, tuple(model.layers or ()), head, *images)


def by_setting(runs: Iterable[FoundRun]) -> dict[Setting, list[RunRecord]]:
    """Return the records of the runs in each setting, without broken runs."""
    groups: dict[Setting, list[RunRecord]] = defaultdict(list)
    for _, record in runs:
        if isinstance(record, RunRecord):
            groups[setting(record)].append(record)
    return groups


def is_reference(record: RunRecord) -> bool:
    """Return whether other runs are compared with this one: a finished baseline that trains a head only.

    Baselines that also train an encoder, adapter, projection or last layer are not references.
    """
    model = record.model
    if record.kind != "baseline" or record.status != "finished" or model is None:
        return False
    trained = model.add_adapter or model.unfreeze_last_layer
    projected = record.settings.get("model.feature_dim") is not None
    return model.encoder == "linear" and not trained and not projected


def baseline_ious(records: Iterable[RunRecord]) -> list[float]:
    """Return the test mIoU of each baseline that is a reference."""
    tested = (record.metrics.test for record in records if is_reference(record))
    return [test.iou for test in tested if test and test.iou is not None]


def rate_and_quality(record: RunRecord) -> Point | None:
    """Return bits and test mean IoU (SQNR without a head) of a finished run with codes, else None."""
    measured, test = record.measured, record.metrics.test
    if record.status != "finished" or measured is None or test is None:
        return None
    quality = test.sqnr_db if test.iou is None else test.iou
    return None if quality is None else (measured.test.bits_per_vector, quality)


def on_front(point: Point, points: Iterable[Point]) -> bool:
    """Return whether no different point has at most the bits and at least the quality of `point`."""
    return not any(
        other != point and other[0] <= point[0] and other[1] >= point[1] for other in points
    )


def _model(row: ComparisonRow) -> str:
    name = (row.model or MISSING).replace("efficientnet-lite0", "eff-lite0")
    return f"{name} (random)" if row.random_features else name


@dataclass(frozen=True)
class Column:
    """A column of the table and of Markdown: heading, text of a row, and meaning for the caption.

    If the table is too wide, columns of the highest `rank` are left out first, those of rank 0 never.
    A `text` column is left-aligned, and long text is folded.
    """

    title: str
    cell: Callable[[ComparisonRow], str]
    meaning: str = ""
    rank: int = 0
    text: bool = False


_DISTORTION = (
    "mean squared error, cosine similarity and signal-to-quantization-noise ratio in dB of normalized "
    "test features"
)
COLUMNS = (
    Column("run", lambda r: r.name, text=True),
    Column("model", _model, text=True),
    Column("quant.", lambda r: r.codec or r.quantizer or MISSING, text=True),
    Column("nominal bits", lambda r: number(r.nominal_bits_per_vector),
           "bits per vector, from the codes' sizes", rank=3),
    Column("nominal ratio", lambda r: number(r.nominal_compression_ratio),
           "to float32 features", rank=10),
    Column("measured bits", lambda r: fixed(r.measured_bits_per_vector, 2),
           "bits per vector, from the whole file of the test images' codes"),
    Column("measured BPFP", lambda r: fixed(r.measured_bits_per_feature_point, 4),
           "bits per feature point: per value of the backbone's features", rank=7),
    Column("measured bpp", lambda r: fixed(r.measured_bits_per_pixel, 4),
           "bits per pixel of the backbone's input", rank=9),
    Column("measured bytes", lambda r: fixed(r.measured_bytes_per_image), "bytes per image", rank=2),
    Column("measured ratio", lambda r: number(r.measured_compression_ratio),
           "to float32 features", rank=8),
    Column("encoder MFLOP", lambda r: number(r.encoder_flops and r.encoder_flops / 1e6),
           "million operations per image from features to codes", rank=10),
    Column("val", lambda r: percent(r.val_iou), "mean IoU in %", rank=4),
    Column("test", lambda r: percent(r.test_iou), "mean IoU in %"),
    Column("Δ", lambda r: percent(r.difference_to_baseline, "+"),
           "difference of test mean IoU to the baseline on the same features", rank=5),
    Column("kept", lambda r: percent(r.retention),
           "% of the test mean IoU of the baseline on the same features", rank=1),
    Column("front", lambda r: "●" if r.pareto_front else "",
           "no other run on the same data and features is at least as good in both measured bits and "
           "test mean IoU or SQNR (Pareto front)"),
    Column("MSE", lambda r: fixed(r.test_mse, 3), _DISTORTION, rank=3),
    Column("cosine", lambda r: fixed(r.test_cosine, 3), _DISTORTION, rank=6),
    Column("SQNR", lambda r: fixed(r.test_sqnr_db, 2) if r.test_iou is None else MISSING,
           _DISTORTION),
    Column("acc.", lambda r: percent(r.test_accuracy), "test pixel accuracy in %", rank=11),
    Column("used", lambda r: percent(r.codebook_usage),
           "codes in use on test images in % (the least used codebook)", rank=6),
    Column("ep.", lambda r: number(r.epochs), "epochs", rank=12),
    Column("time", lambda r: duration(r.seconds), "the whole run", rank=13),
)  # fmt: skip


def comparison_table(rows: Sequence[ComparisonRow], width: int) -> RenderableType:
    """Return the table of `squeeze compare`, with broken and unfinished runs below it.

    Columns without any value are left out, then columns that do not fit into `width` characters, by
    rank.
    """
    finished = [row for row in rows if row.status == "finished"]
    valued = [
        column
        for column in COLUMNS
        if column.text or any(column.cell(row) not in ("", MISSING) for row in finished)
    ]
    shown = list(valued)
    while sum(_least_width(column, finished) + 1 for column in shown) - 1 > width:
        least = max(shown, key=lambda column: column.rank)
        if least.rank == 0:
            break
        shown.remove(least)
    table = plain_table()
    for column in shown:
        heading = column.title.replace(" ", "\n")
        if column.text:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for row in finished:
        table.add_row(*(printable(column.cell(row)) for column in shown))
    caption = f"{_caption(shown)}."
    if left_out := [column.title for column in valued if column not in shown]:
        caption += f" No room for {', '.join(left_out)}: widen the terminal, or see --csv."
    parts: list[RenderableType] = [table, Text(caption, "dim")] if finished else []
    for row in rows:
        if row.status != "finished":
            reason = f": {row.problem}" if row.problem else ""
            parts.append(Text(printable(f"{row.path} is {row.status}{reason}"), "yellow"))
    return Group(*parts)


def _least_width(column: Column, rows: Sequence[ComparisonRow]) -> int:
    """Return the least width of a column in characters; long text is folded."""
    cells = max((cell_len(column.cell(row)) for row in rows), default=0)
    heading = max(cell_len(line) for line in column.title.split())
    return max(heading, min(cells, LEAST_TEXT_WIDTH) if column.text else cells)


def _caption(columns: Iterable[Column]) -> str:
    titles: dict[str, list[str]] = defaultdict(list)
    for column in columns:
        titles[column.meaning].append(column.title)
    return "; ".join(f"{', '.join(each)}: {meaning}" for meaning, each in titles.items() if meaning)


def comparison_json(rows: Sequence[ComparisonRow]) -> dict[str, object]:
    """Return the content of `squeeze compare --json`."""
    return {"schema_version": COMPARE_SCHEMA_VERSION, "runs": [row.model_dump() for row in rows]}


CSV_MARK = ",".join(FIELDS[:5])
MARKDOWN_MARK = " | ".join(column.title for column in COLUMNS[:5])


def comparison_csv(rows: Sequence[ComparisonRow]) -> str:
    """Return all fields of all runs as CSV, in full precision."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    return buffer.getvalue()


def comparison_markdown(rows: Sequence[ComparisonRow]) -> str:
    """Return the table of finished runs in Markdown."""
    finished = [row for row in rows if row.status == "finished"]
    lines = [
        [column.title for column in COLUMNS],
        ["---" if column.text else "---:" for column in COLUMNS],
        *([column.cell(row).replace("|", "\\|") for column in COLUMNS] for row in finished),
    ]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\n{_caption(COLUMNS)}.\n"
