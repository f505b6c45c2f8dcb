"""The table of `squeeze cache ls`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from squeeze_cli.features.inventory import Space
from squeeze_cli.reports.tables import MISSING


def amount(size_bytes: int) -> str:
    """Bytes in the unit that suits them; decimal units, as disks are sold."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if round(size) < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def spaces_table(spaces: Sequence[Space]) -> Table:
    """One row a space, the sum below, within 80 columns."""
    table = Table(
        box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", footer_style="bold",
        show_footer=len(spaces) > 1,
    )  # fmt: skip
    total = amount(sum(space.bytes for space in spaces))
    for title, footer in (("key", ""), ("backbone", ""), ("layer", ""), ("precision", "")):
        table.add_column(title, footer, overflow="fold")
    for title, footer in (("px", ""), ("images", ""), ("size", total), ("last used", "")):
        table.add_column(title, footer, justify="right", no_wrap=True)
    for space in spaces:
        table.add_row(
            space.key[:12],
            space.backbone or MISSING,
            space.layer or MISSING,
            space.precision or MISSING,
            str(space.image_size_px or MISSING),
            f"{space.images:,}",
            amount(space.bytes),
            space.last_used.astimezone().strftime("%Y-%m-%d"),
        )
    return table
