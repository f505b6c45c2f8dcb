"""`squeeze cache`: the content of the feature store, and its removal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.filesize import decimal

from squeeze_cli.config.sizes import size_text
from squeeze_cli.console import print_json
from squeeze_cli.errors import UsageError
from squeeze_cli.options import OutputOptions, field_option, option, with_options

if TYPE_CHECKING:
    from rich.table import Table

    from squeeze_cli.features.store import Space

EXAMPLES = (
    "squeeze cache ls",
    "squeeze cache ls --json --cache-dir /scratch/squeeze",
    "squeeze cache clear",
    "squeeze cache clear 3f2a --yes",
)


@with_options()
def cache(
    action: Annotated[
        Literal["ls", "clear"], typer.Argument(help="ls shows the features, clear deletes them.")
    ],
    key: Annotated[
        str | None, typer.Argument(help="Only the features with this key, or its beginning.")
    ] = None,
    yes: Annotated[bool, option("--yes", "Delete without asking.")] = False,
    cache_dir: Annotated[Path | None, field_option("data.cache_dir")] = None,
    *,
    output: OutputOptions,
) -> None:
    """Show or delete stored features, which can always be computed again."""
    reporter = output.reporter()
    if yes and action == "ls":
        raise UsageError("--yes has no effect with ls: leave it out.")
    from squeeze_cli.features.store import choose_spaces, default_cache_dir, remove_space

    cache_dir = cache_dir or default_cache_dir()
    spaces = choose_spaces(cache_dir, key)
    total = decimal(sum(space.bytes for space in spaces))
    if spaces and action == "clear":
        if not yes and not sys.stdin.isatty():
            raise UsageError("Without a terminal nobody can be asked: add --yes to delete.")
        if not yes:
            typer.confirm(f"Delete {total} of features in {cache_dir}?", abort=True, err=True)
        for space in spaces:
            remove_space(cache_dir, space)
        reporter.say(f"Deleted {total} of features in {cache_dir}")
    if output.json:
        print_json(
            [asdict(s) | {"last_used": s.last_used.isoformat("T", "seconds")} for s in spaces]
        )
    elif not spaces:
        reporter.say(f"No features are kept in {cache_dir}.")
    elif action == "ls":
        reporter.show(_spaces_table(spaces, total))


def _spaces_table(spaces: Sequence[Space], total: str) -> Table:
    """Return a table with one row per space and the total size, within 80 columns."""
    from rich.table import Column

    from squeeze_cli.reports.tables import MISSING, plain_table

    right = (("px", ""), ("images", ""), ("size", total), ("last used", ""))
    table = plain_table(
        *(Column(title, overflow="fold") for title in ("key", "backbone", "layer", "precision")),
        *(Column(title, footer, justify="right", no_wrap=True) for title, footer in right),
        show_footer=len(spaces) > 1,
    )
    for space in spaces:
        sides = space.image_size_px
        size = size_text(sides) if sides else None
        names = (space.backbone, space.layer, space.precision, size)
        table.add_row(
            space.key[:12], *(str(name or MISSING) for name in names), f"{space.images:,}",
            decimal(space.bytes), space.last_used.astimezone().strftime("%Y-%m-%d"),
        )  # fmt: skip
    return table
