"""Rich tables of results, and the format of numbers in all tables."""

from collections.abc import Iterable, Sequence

from rich.table import Column, Table
from rich.text import Text

from squeeze_cli.codec.manifest import ExtractionSummary
from squeeze_cli.config.classes import ClassTable
from squeeze_cli.config.record import EvaluationResult, FinishedRecord, SplitMetrics
from squeeze_cli.console import printable

MISSING = "–"
# Limit on the characters of a class's name in a table.
NAME_CHARACTERS = 40
CHECK_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def percent(value: float | None, sign: str = "") -> str:
    """Return a share as a percentage with one decimal; the sign "+" is for differences."""
    return MISSING if value is None else f"{100 * value:{sign}.1f}"


def number(value: float | None) -> str:
    """Return a number with no decimals from 100 on, and with at most two below."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")


def fixed(value: float | None, digits: int = 0) -> str:
    """Return a number with a fixed count of decimals, so that a column lines up."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def duration(seconds: float | None) -> str:
    """Return seconds, or from two minutes on minutes and seconds."""
    if seconds is None:
        return MISSING
    return f"{seconds:.0f}s" if seconds < 120 else f"{seconds // 60:.0f}m{seconds % 60:02.0f}s"


def plain_table(*columns: Column) -> Table:
    """Return a table without lines and edges; one blank separates the columns."""
    return Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))


def list_table(
    texts: Iterable[str], numbers: Iterable[str], rows: Iterable[Sequence[object]]
) -> Table:
    """Return a table with columns of texts, which are folded, before columns of numbers."""
    table = plain_table(
        *(Column(title, overflow="fold") for title in texts),
        *(Column(title, justify="right", no_wrap=True) for title in numbers),
    )
    for row in rows:
        table.add_row(*(MISSING if value in (None, "") else str(value) for value in row))
    return table


def facts(title: str, rows: Iterable[tuple[str, object]]) -> Table:
    """Return a table of names and values; rows whose value is None or 0 are left out."""
    table = Table(
        title=printable(title), title_justify="left", show_header=False, box=None, pad_edge=False
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, str(value))
    return table


def result_table(record: FinishedRecord) -> Table:
    """Return the closing table of a training."""
    model, quantizer, epochs = record.model, record.quantizer, record.epochs
    test = record.measured.test if record.measured else None
    bits, size = quantizer.nominal_bits_per_vector, quantizer.nominal_bytes_per_image
    nominal = _rate(bits, size, quantizer.nominal_compression_ratio)
    measured = test and _rate(test.bits_per_vector, test.bytes_per_image, test.compression_ratio)
    seconds = record.seconds
    stages = f"features {duration(seconds.features)}, training {duration(seconds.fit)}"
    rows = [
        ("Model", model.backbone + (" (random features)" if model.random_features else "")),
        ("Quantizer", "baseline, unquantized" if record.kind == "baseline" else quantizer.type),
        ("Nominal rate", nominal),
        ("Measured rate", measured),
        ("", test and _field_rate(test.bits_per_feature_point, test.bits_per_pixel)),
        ("Codes file", test and f"{test.file}, {test.file_bytes:,} bytes"),
        (
            "Encoder",
            (f := quantizer.encoder_flops) and f"{f / 1e6:,.0f} million operations per image",
        ),
        ("Epochs", f"{epochs.done}" + ("" if epochs.best is None else f", best {epochs.best + 1}")),
        ("Validation", metrics_text(record.metrics.val, record.data.classes)),
        ("Test", metrics_text(record.metrics.test, record.data.classes)),
        ("Skipped images", record.data.skipped_images),
        ("Warnings", "\n".join(record.warnings)),
        ("Time", f"{duration(seconds.total)} ({stages}, codes {duration(seconds.codes)})"),
    ]
    return facts(record.name, rows)


def _rate(bits_per_vector: float, bytes_per_image: float, ratio: float) -> str:
    return (
        f"{number(bits_per_vector)} bits per vector, {number(bytes_per_image)} bytes per image "
        f"(1/{number(ratio)} of float32)"
    )


def _field_rate(per_point: float | None, per_pixel: float | None) -> str:
    """Return a rate in the units of feature coding; empty if it is unknown."""
    rates = [(per_point, "bits per feature point"), (per_pixel, "bits per pixel")]
    return ", ".join(f"{value:.4f} {unit}" for value, unit in rates if value is not None)


def _class_name(name: str) -> str:
    """Return a class's name for a table; a long name is truncated."""
    name = printable(name)
    return name if len(name) <= NAME_CHARACTERS else f"{name[: NAME_CHARACTERS - 1]}…"


def classes_text(classes: ClassTable, pixels: Sequence[int], images: Sequence[int]) -> str:
    """Return a table of the classes in masks, with the pixels and images of each."""
    total, names = max(1, sum(pixels)), [_class_name(name) for name in classes.names]
    width = max(map(len, ("class", *names)))
    lines = [f"value  {'class':<{width}}  % of pixels  images"]
    for entry, name, count, found in zip(classes.classes, names, pixels, images, strict=True):
        share = percent(count / total)
        lines.append(f"{entry.value!s:>5}  {name:<{width}}  {share:>11}  {found:>6}")
    ignored = ", ".join(map(str, classes.ignore or ())) or "none"
    return "\n".join([*lines, f"Ignored values: {ignored}"])


def metrics_text(metrics: SplitMetrics | None, classes: Sequence[str]) -> str | None:
    """Return the metrics of a split in two or three lines; None before they are measured."""
    if metrics is None:
        return None
    lines = []
    if metrics.per_class_iou is not None:
        named = zip(classes, metrics.per_class_iou, strict=False)
        lines += [
            f"mean IoU {percent(metrics.iou)} %, accuracy {percent(metrics.accuracy)} %",
            "IoU " + ", ".join(f"{_class_name(name)} {percent(iou)}" for name, iou in named),
        ]
    if metrics.codebook_usage and metrics.codebook_perplexity:
        usage = " ".join(percent(share) for share in metrics.codebook_usage)
        perplexity = " ".join(number(round(value)) for value in metrics.codebook_perplexity)
        lines.append(f"codes used {usage} %, perplexity {perplexity}")
    if metrics.mse is not None:
        lines.append(distortion_text(metrics.mse, metrics.cosine, metrics.sqnr_db))
    if "neighbours_images" in metrics.model_fields_set:
        images, patches = map(percent, (metrics.neighbours_images, metrics.neighbours_patches))
        lines.append(f"10 nearest neighbours kept: images {images} %, patches {patches} %")
    return "\n".join(lines)


def distortion_text(mse: float | None, cosine: float | None, sqnr_db: float | None = None) -> str:
    """Return the distortion of normalized features in one line."""
    sqnr = "" if sqnr_db is None else f", SQNR {sqnr_db:.2f} dB"
    return f"MSE {fixed(mse, 3)}, cosine {fixed(cosine, 3)}{sqnr} (normalized features)"


def evaluation_table(result: EvaluationResult) -> Table:
    """Return the table of `squeeze evaluate`."""
    rows = [
        ("Data", f"{result.images} images, {result.split}, {printable(result.data_dir)}"),
        ("Skipped images", result.skipped_images),
        ("Levels", result.levels),
        (result.split.capitalize(), metrics_text(result.metrics, result.classes)),
    ]
    if probe := result.probe:
        accuracy = (
            f"accuracy {percent(probe.original)} % on original, {percent(probe.decoded)} % on decoded "
            f"features ({probe.labels} labels of {probe.train_images} training images, {probe.images} "
            "tested)"
        )
        rows.append(("Linear probe", accuracy))
    return facts(result.run, rows)


def extraction_table(result: ExtractionSummary) -> Table:
    """Return the table of `squeeze extract-embeddings`, within 80 columns."""
    rows: list[tuple[str, object]] = [
        ("Vectors", f"{result.vectors:,} in {result.images:,} images"),
        ("Skipped images", result.skipped_images),
        ("Size", f"{result.file_bytes:,} bytes, {number(result.bytes_per_image)} per image"),
        ("Levels", result.levels),
    ]
    if result.content == "codes":
        parts = "codebook, projection" + (", prior" if result.coding == "prior" else "")
        coding = f"coding {result.coding}; all bytes of the files"
        once = f"{result.decoder_bytes:,} bytes once: {parts}"
        ratio = result.compression_ratio_float32
        full = result.compression_ratio_float32_with_decoder
        rows += [
            ("Nominal", f"{number(result.nominal_bits_per_vector)} bits per vector"),
            ("Measured", f"{number(result.bits_per_vector)} bits per vector ({coding})"),
            ("", _field_rate(result.bits_per_feature_point, result.bits_per_pixel)),
            ("Ratio", f"1/{number(ratio)} of float32"),
            ("With decoder", f"1/{number(full)} of float32, {once}"),
        ]
    if result.mse is not None:
        rows.append(("Distortion", distortion_text(result.mse, result.cosine)))
    rows.append(("Folder", printable(result.out)))
    part = "" if result.complete else ", a part"
    return facts(f"{result.content} of {result.source}{part}", rows)


def check_line(status: str, name: str, found: str, fix: str | None) -> Table:
    """Return a line of `squeeze doctor`, `ok      torch: 2.15.0`, and the fix below it.

    Long text is folded and indented.
    """
    line = Table.grid(Column(width=7), Column(overflow="fold"), padding=(0, 1))
    text = printable(f"{name}: {found}") + (f"\n-> {fix}" if fix else "")
    line.add_row(Text(status, style=CHECK_STYLES[status]), Text(text))
    return line
