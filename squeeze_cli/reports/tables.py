"""Rich tables of one run, and how numbers are written in all tables."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from squeeze_cli.config.record import FinishedRecord, SplitMetrics

MISSING = "–"
CHECK_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal."""
    return MISSING if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, signed."""
    return MISSING if value is None else f"{100 * value:+.1f}"


def number(value: float | None) -> str:
    """A number, rounded to whole numbers from 100 on, and to two decimals below."""
    if value is None:
        return MISSING
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}".rstrip("0").rstrip(".")


def fixed(value: float | None, digits: int = 0) -> str:
    """A number with a fixed count of decimals, so that a column lines up."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def amount(size_bytes: int) -> str:
    """Bytes in the unit that suits them; decimal units, as disks are sold."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if round(size) < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def duration(seconds: float | None) -> str:
    """Seconds, or minutes and seconds."""
    if seconds is None:
        return MISSING
    return f"{seconds:.0f}s" if seconds < 120 else f"{seconds // 60:.0f}m{seconds % 60:02.0f}s"


def result_table(record: FinishedRecord) -> Table:
    """Return the closing table of a training."""
    table = facts(record.name)
    model, quantizer, epochs, seconds = (
        record.model, record.quantizer, record.epochs, record.seconds,
    )  # fmt: skip
    table.add_row("Model", model.backbone + (" (random features)" if model.random_features else ""))
    kind = "baseline, unquantized" if record.kind == "baseline" else quantizer.type
    table.add_row("Quantizer", kind)
    nominal = _rate(
        quantizer.nominal_bits_per_vector,
        quantizer.nominal_bytes_per_image,
        quantizer.nominal_compression_ratio,
    )
    table.add_row("Nominal rate", nominal)
    if record.measured:
        test = record.measured.test
        rate = _rate(test.bits_per_vector, test.bytes_per_image, test.compression_ratio)
        table.add_row("Measured rate", rate)
        table.add_row("Codes file", f"{test.file}, {test.file_bytes:,} bytes")
    best = "" if epochs.best is None else f", best {epochs.best + 1}"
    table.add_row("Epochs", f"{epochs.done}{best}")
    for title, metrics in (("Validation", record.metrics.val), ("Test", record.metrics.test)):
        if metrics:
            add_metrics(table, title, metrics)
    if record.data.skipped_images:
        table.add_row("Skipped images", str(record.data.skipped_images))
    table.add_row(
        "Time",
        f"{duration(seconds.total)} (features {duration(seconds.features)}, "
        f"training {duration(seconds.fit)}, codes {duration(seconds.codes)})",
    )
    return table


def _rate(bits_per_vector: float, bytes_per_image: float, ratio: float) -> str:
    return (
        f"{number(bits_per_vector)} bits per vector, {number(bytes_per_image)} bytes per image "
        f"(1/{number(ratio)} of float32)"
    )


def columns_table(footer: bool = False) -> Table:
    """Return an empty table without lines for one row per run or folder."""
    return Table(
        box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", footer_style="bold",
        show_footer=footer,
    )  # fmt: skip


def check_line(status: str, name: str, found: str, fix: str | None) -> Table:
    """Return a line of `squeeze doctor`: `ok      torch: 2.15.0`, with the fix below it.

    Long text is folded and indented.
    """
    line = Table.grid(padding=(0, 1))
    line.add_column(width=7)
    line.add_column(overflow="fold")
    text = Text(f"{name}: {found}")
    if fix:
        text.append(f"\n-> {fix}")
    line.add_row(Text(status, style=CHECK_STYLES[status]), text)
    return line


def facts(title: str) -> Table:
    """Return an empty table for rows of a name and a value."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def add_metrics(table: Table, split: str, metrics: SplitMetrics) -> None:
    """Add rows with the metrics of a split to a table of facts."""
    table.add_row(
        split, f"mean IoU {percent(metrics.iou)} %, accuracy {percent(metrics.accuracy)} %"
    )
    named = zip(("pet", "background", "border"), metrics.per_class_iou, strict=False)
    table.add_row("", "IoU " + ", ".join(f"{name} {percent(iou)}" for name, iou in named))
    if metrics.codebook_usage and metrics.codebook_perplexity:
        usage = " ".join(percent(share) for share in metrics.codebook_usage)
        perplexity = " ".join(number(round(value)) for value in metrics.codebook_perplexity)
        table.add_row("", f"codes used {usage} %, perplexity {perplexity}")
