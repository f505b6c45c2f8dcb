"""Rich tables for people, CSV and Markdown for others; the figures come from elsewhere."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from squeeze_cli.reports.comparison import ComparisonRow

MISSING = "–"


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal."""
    return MISSING if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, signed."""
    return MISSING if value is None else f"{100 * value:+.1f}"


def number(value: float | None) -> str:
    """A number with as few digits as say enough."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}".rstrip("0")


def duration(seconds: float | None) -> str:
    """Seconds, or minutes and seconds."""
    if seconds is None:
        return MISSING
    return f"{seconds:.0f}s" if seconds < 120 else f"{seconds // 60:.0f}m{seconds % 60:02.0f}s"


def _model(row: ComparisonRow) -> str:
    name = (row.model or MISSING).replace("efficientnet-lite0", "eff-lite0")
    return f"{name} (random)" if row.random_features else name


# Short headings, so that the table fits 80 columns; the caption explains them.
COLUMNS: tuple[tuple[str, Callable[[ComparisonRow], str]], ...] = (
    ("run", lambda r: r.name),
    ("model", _model),
    ("quant.", lambda r: r.quantizer or MISSING),
    ("bits", lambda r: number(r.nominal_bits_per_vector)),
    ("ratio", lambda r: number(r.nominal_compression_ratio)),
    ("val", lambda r: percent(r.val_iou)),
    ("test", lambda r: percent(r.test_iou)),
    ("Δ", lambda r: points(r.difference_to_baseline)),
    ("acc.", lambda r: percent(r.test_accuracy)),
    ("used", lambda r: percent(r.codebook_usage)),
    ("ep.", lambda r: number(r.epochs)),
    ("time", lambda r: duration(r.seconds)),
)
CAPTION = (
    "bits: nominal, a feature vector; ratio: nominal, against float32 features; val, test: mean "
    "IoU in %; Δ: points to the baseline on the same features; acc.: test pixel accuracy in %; "
    "used: codes in use on test images in % (the least used codebook)."
)


def comparison_table(rows: Sequence[ComparisonRow]) -> RenderableType:
    """The table of `squeeze compare`, within 80 columns; broken and unfinished runs below it."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title, _ in COLUMNS:
        text = title in ("run", "model", "quant.")
        table.add_column(
            title, justify="left" if text else "right", no_wrap=not text, overflow="fold"
        )
    finished = [row for row in rows if row.status == "finished"]
    for row in finished:
        table.add_row(*(cell(row) for _, cell in COLUMNS))
    parts: list[RenderableType] = [table, Text(CAPTION, style="dim")] if finished else []
    for row in rows:
        if row.status != "finished":
            reason = f": {row.problem}" if row.problem else ""
            parts.append(Text(f"{row.path} is {row.status}{reason}", style="yellow"))
    return Group(*parts)


def comparison_csv(rows: Sequence[ComparisonRow]) -> str:
    """All columns of all runs, full precision."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [f.name for f in fields(ComparisonRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return buffer.getvalue()


def comparison_markdown(rows: Sequence[ComparisonRow]) -> str:
    """The table of finished runs in Markdown."""
    lines = [
        "| " + " | ".join(title for title, _ in COLUMNS) + " |",
        "|"
        + "|".join("---" if t in ("run", "model", "quant.") else "---:" for t, _ in COLUMNS)
        + "|",
    ]
    lines += [
        "| " + " | ".join(cell(row).replace("|", "\\|") for _, cell in COLUMNS) + " |"
        for row in rows
        if row.status == "finished"
    ]
    return "\n".join([*lines, "", CAPTION, ""])


def result_table(record: dict[str, Any]) -> Table:
    """The closing table of a training."""
    table = _facts(f"{record['name']}")
    model, quantizer, epochs = record["model"], record["quantizer"], record["epochs"]
    name = model["backbone"] + (" (random features)" if model["random_features"] else "")
    table.add_row("Model", name)
    what = "baseline, unquantized" if record["kind"] == "baseline" else quantizer["type"]
    table.add_row("Quantizer", what)
    table.add_row(
        "Nominal rate",
        f"{number(quantizer['nominal_bits_per_vector'])} bits a vector, "
        f"{number(quantizer['nominal_bytes_per_image'])} bytes an image "
        f"(1/{number(quantizer['nominal_compression_ratio'])} of float32)",
    )
    table.add_row("Epochs", f"{epochs['done']}, best {epochs['best'] + 1}")
    _add_metrics(table, "Validation", record["metrics"]["val"])
    _add_metrics(table, "Test", record["metrics"]["test"])
    skipped = record["data"]["skipped_images"]
    if skipped:
        table.add_row("Skipped images", str(skipped))
    seconds = record["seconds"]
    table.add_row(
        "Time",
        f"{duration(seconds['total'])} (features {duration(seconds['features'])}, "
        f"training {duration(seconds['fit'])})",
    )
    return table


def evaluation_table(result: dict[str, Any]) -> Table:
    """The table of `squeeze evaluate`."""
    table = _facts(result["run"])
    table.add_row("Data", f"{result['images']} images, {result['split']}, {result['data_dir']}")
    if result["skipped_images"]:
        table.add_row("Skipped images", str(result["skipped_images"]))
    _add_metrics(table, result["split"].capitalize(), result["metrics"])
    return table


def _facts(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _add_metrics(table: Table, split: str, metrics: dict[str, Any]) -> None:
    table.add_row(
        split, f"mean IoU {percent(metrics['iou'])} %, accuracy {percent(metrics['accuracy'])} %"
    )
    per_class = metrics["per_class_iou"][:3]
    named = zip(("pet", "background", "border"), per_class, strict=False)
    table.add_row("", "IoU " + ", ".join(f"{name} {percent(iou)}" for name, iou in named))
    if metrics.get("codebook_usage"):
        usage = " ".join(percent(u) for u in metrics["codebook_usage"])
        perplexity = " ".join(number(round(p)) for p in metrics["codebook_perplexity"])
        table.add_row("", f"codes used {usage} %, perplexity {perplexity}")
