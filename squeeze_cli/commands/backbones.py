"""`squeeze backbones`: a list of the backbones for `--model`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from squeeze_cli.errors import UsageError
from squeeze_cli.options import OutputOptions, option, with_options

if TYPE_CHECKING:
    from rich.table import Table

    from squeeze_cli.backbones.listing import Description

EXAMPLES = (
    "squeeze backbones",
    "squeeze backbones dinov2",
    "squeeze backbones 'convnext*in22k' --limit 50 --json",
)


@with_options()
def backbones(
    pattern: Annotated[
        str, typer.Argument(help="A part of the name, or a pattern such as 'vit*siglip*'.")
    ] = "*",
    limit: Annotated[int, option("--limit", "Describe at most N of them.", "N", min=1)] = 20,
    *,
    output: OutputOptions,
) -> None:
    """List the backbones for --model: channels, stride, image size, place of the weights.

    Nothing is downloaded.
    """
    from squeeze_cli.backbones.listing import describe, find_names

    names = find_names(pattern)
    if not names:
        raise UsageError(f"No backbone matches {pattern!r}: try a shorter part of its name.")
    shown = names[:limit]
    found = []
    with output.reporter().track("Backbones", len(shown)) as advance:
        for description in describe(shown):
            found.append(description)
            advance(1, description.name)
    result = {"matching": len(names), "backbones": [asdict(each) for each in found]}
    output.show(result, _table(found))
    if len(found) < len(names) and not output.json:
        output.reporter().say(
            f"{len(found)} of {len(names):,} that match: give a PATTERN, or a higher --limit."
        )


def _table(found: Sequence[Description]) -> Table:
    """Return a table with one row per backbone, within 80 columns."""
    from rich.table import Column

    from squeeze_cli.reports.tables import MISSING, plain_table

    numbers = ("channels", "stride", "px", "layers")
    table = plain_table(
        Column("--model", overflow="fold"),
        *(Column(title, justify="right", no_wrap=True) for title in numbers),
        Column("weights", no_wrap=True),
    )
    for each in found:
        values = (each.channels, each.stride, each.image_size, each.layers, each.weights)
        table.add_row(each.name, *(str(MISSING if value is None else value) for value in values))
    return table
