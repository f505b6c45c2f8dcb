"""The comparison of runs as a rich table, as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from squeeze_cli.reports.comparison import ComparisonRow
from squeeze_cli.reports.tables import MISSING, columns_table, duration, fixed, number, percent

FRONT_MARK = "●"
LEAST_TEXT_WIDTH = 10


def _model(row: ComparisonRow) -> str:
    name = (row.model or MISSING).replace("efficientnet-lite0", "eff-lite0")
    return f"{name} (random)" if row.random_features else name


@dataclass(frozen=True)
class Column:
    """A column of the comparison.

    Attributes:
        title: a short heading, which says of a rate whether it is nominal or measured.
        cell: a function from a row to the column's text.
        meaning: the explanation of the title in the caption.
        rank: where the table is too wide, the highest rank is left out first, rank 0 never.
        text: whether the column is left-aligned and folded where it is long.
    """

    title: str
    cell: Callable[[ComparisonRow], str]
    meaning: str = ""
    rank: int = 0
    text: bool = False


COLUMNS: tuple[Column, ...] = (
    Column("run", lambda r: r.name, text=True),
    Column("model", _model, text=True),
    Column("quant.", lambda r: r.quantizer or MISSING, text=True),
    Column("nominal bits", lambda r: number(r.nominal_bits_per_vector),
           "bits per vector, from the codes' sizes", rank=3),
    Column("nominal ratio", lambda r: number(r.nominal_compression_ratio),
           "to float32 features", rank=8),
    Column("measured bits", lambda r: fixed(r.measured_bits_per_vector, 2),
           "bits per vector, from the whole file of the test images' codes"),
    Column("measured bytes", lambda r: fixed(r.measured_bytes_per_image), "bytes per image", rank=2),
    Column("measured ratio", lambda r: number(r.measured_compression_ratio),
           "to float32 features", rank=7),
    Column("val", lambda r: percent(r.val_iou), "mean IoU in %", rank=4),
    Column("test", lambda r: percent(r.test_iou), "mean IoU in %"),
    Column("Δ", lambda r: percent(r.difference_to_baseline, "+"),
           "difference of test mean IoU to the baseline on the same features", rank=5),
    Column("kept", lambda r: percent(r.retention),
           "% of the test mean IoU of the baseline on the same features", rank=1),
    Column("front", lambda r: FRONT_MARK if r.pareto_front else "",
           "no other run has as few measured bits and as high a test mean IoU (Pareto)"),
    Column("acc.", lambda r: percent(r.test_accuracy), "test pixel accuracy in %", rank=9),
    Column("used", lambda r: percent(r.codebook_usage),
           "codes in use on test images in % (the least used codebook)", rank=6),
    Column("ep.", lambda r: number(r.epochs), "epochs", rank=10),
    Column("time", lambda r: duration(r.seconds), "the whole run", rank=11),
)  # fmt: skip


def comparison_table(rows: Sequence[ComparisonRow], width: int = 80) -> RenderableType:
    """Return the table of `squeeze compare`, with broken and unfinished runs below it.

    Columns in which no run has a value are left out, then by rank those that do not fit into
    `width` characters.
    """
    finished = [row for row in rows if row.status == "finished"]
    shown, left_out = _fitting_columns(finished, width)
    table = columns_table()
    for column in shown:
        heading = column.title.replace(" ", "\n")
        if column.text:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for row in finished:
        table.add_row(*(column.cell(row) for column in shown))
    parts: list[RenderableType] = []
    if finished:
        parts += [table, Text(_caption(shown, left_out), style="dim")]
    for row in rows:
        if row.status != "finished":
            reason = f": {row.problem}" if row.problem else ""
            parts.append(Text(f"{row.path} is {row.status}{reason}", style="yellow"))
    return Group(*parts)


def _fitting_columns(
    rows: Sequence[ComparisonRow], width: int
) -> tuple[list[Column], list[Column]]:
    """Return the columns to show, and those that have values but no room."""
    shown = [c for c in COLUMNS if c.text or any(c.cell(row) not in ("", MISSING) for row in rows)]
    left_out: list[Column] = []
    while sum(_least_width(column, rows) + 1 for column in shown) - 1 > width:
        least = max(shown, key=lambda column: column.rank)
        if least.rank == 0:
            break
        shown.remove(least)
        left_out.append(least)
    return shown, sorted(left_out, key=COLUMNS.index)


def _least_width(column: Column, rows: Sequence[ComparisonRow]) -> int:
    """Return the characters that a column needs; long texts fold."""
    cells = max((cell_len(column.cell(row)) for row in rows), default=0)
    heading = max(cell_len(line) for line in column.title.split())
    return max(heading, min(cells, LEAST_TEXT_WIDTH) if column.text else cells)


def _caption(shown: Sequence[Column], left_out: Sequence[Column] = ()) -> str:
    titles: dict[str, list[str]] = {}
    for column in shown:
        titles.setdefault(column.meaning, []).append(column.title)
    caption = "; ".join(
        f"{', '.join(each)}: {meaning}" for meaning, each in titles.items() if meaning
    )
    if left_out:
        names = ", ".join(column.title for column in left_out)
        return f"{caption}. No room for {names}: widen the terminal, or see --csv."
    return f"{caption}."


def comparison_csv(rows: Sequence[ComparisonRow]) -> str:
    """Return all columns of all runs as CSV, in full precision."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [f.name for f in fields(ComparisonRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return buffer.getvalue()


def comparison_markdown(rows: Sequence[ComparisonRow]) -> str:
    """Return the table of finished runs in Markdown."""
    lines = [
        f"| {' | '.join(column.title for column in COLUMNS)} |",
        f"|{'|'.join('---' if column.text else '---:' for column in COLUMNS)}|",
    ]
    lines += [
        "| " + " | ".join(column.cell(row).replace("|", "\\|") for column in COLUMNS) + " |"
        for row in rows
        if row.status == "finished"
    ]
    return "\n".join([*lines, "", _caption(COLUMNS), ""])
