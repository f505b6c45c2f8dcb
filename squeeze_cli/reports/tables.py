"""Rich tables of one run's figures, and how figures are written; they come from elsewhere."""

from __future__ import annotations

from typing import Any

from rich.table import Table

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
    return (
        f"{value:,.0f}"
        if value >= 100 or value == int(value)
        else f"{value:.2f}".rstrip("0").rstrip(".")
    )


def fixed(value: float | None, digits: int = 0) -> str:
    """A measured number with so many decimals, which line up in a column."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def duration(seconds: float | None) -> str:
    """Seconds, or minutes and seconds."""
    if seconds is None:
        return MISSING
    return f"{seconds:.0f}s" if seconds < 120 else f"{seconds // 60:.0f}m{seconds % 60:02.0f}s"


def result_table(record: dict[str, Any]) -> Table:
    """The closing table of a training."""
    table = facts(f"{record['name']}")
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
    measured = (record.get("measured") or {}).get("test")
    if measured:
        table.add_row(
            "Measured rate",
            f"{number(measured['bits_per_vector'])} bits a vector, "
            f"{number(measured['bytes_per_image'])} bytes an image "
            f"(1/{number(measured['compression_ratio'])} of float32)",
        )
        table.add_row("Codes file", f"{measured['file']}, {measured['file_bytes']:,} bytes")
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
        f"training {duration(seconds['fit'])}, codes {duration(seconds.get('codes'))})",
    )
    return table


def evaluation_table(result: dict[str, Any]) -> Table:
    """The table of `squeeze evaluate`."""
    table = facts(result["run"])
    table.add_row("Data", f"{result['images']} images, {result['split']}, {result['data_dir']}")
    if result["skipped_images"]:
        table.add_row("Skipped images", str(result["skipped_images"]))
    _add_metrics(table, result["split"].capitalize(), result["metrics"])
    return table


def facts(title: str) -> Table:
    """A table of facts, a name and what it is in each row."""
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
