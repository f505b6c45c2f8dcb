"""Rich tables of one run's figures, and how figures are written; they come from elsewhere."""

from __future__ import annotations

from rich.table import Table

from squeeze_cli.config.record import FinishedRecord, SplitMetrics

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


def result_table(record: FinishedRecord) -> Table:
    """The closing table of a training."""
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


def facts(title: str) -> Table:
    """A table of facts, a name and what it is in each row."""
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
