"""How `squeeze doctor` shows a check."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from squeeze_cli.commands.checks import ERROR, OK, WARNING, Check

_STYLES = {OK: "green", WARNING: "yellow", ERROR: "bold red"}


def check_line(check: Check) -> Table:
    """`ok      torch: 2.15.0`; what does not fit, and the mend, goes on below, indented."""
    line = Table.grid(padding=(0, 1))
    line.add_column(width=7)
    line.add_column(overflow="fold")
    text = Text(f"{check.name}: {check.found}")
    if check.mend:
        text.append(f"\n-> {check.mend}")
    line.add_row(Text(check.status, style=_STYLES[check.status]), text)
    return line
