"""`squeeze backbones`, a list of the backbones for `--model`, and `squeeze cache`, of stored features."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.filesize import decimal

from squeeze_cli.config.fields import size_text
from squeeze_cli.console import print_json
from squeeze_cli.errors import UsageError
from squeeze_cli.options import OutputOptions, field_option, option, switch, with_options

EXAMPLES = (
    "squeeze backbones",
    "squeeze backbones dinov2",
    "squeeze backbones 'convnext*in22k' --limit 50 --json",
    "squeeze cache ls",
    "squeeze cache ls --json --cache-dir /scratch/squeeze",
    "squeeze cache clear",
    "squeeze cache clear 3f2a --yes",
)


@with_options()
def backbones(
    pattern: Annotated[
        str, typer.Argument(help="A part of the name, or a pattern such as 'vit*siglip*'.")
    ] = "*",
    limit: Annotated[int, option("Describe at most N of them.", "N", min=1)] = 20,
    *,
    output: OutputOptions,
) -> None:
    """List the backbones for --model: channels, stride, image size, place of the weights.

    Nothing is downloaded.
    """
    from squeeze_cli.backbones.listing import describe, find_names
    from squeeze_cli.reports.tables import list_table

    names = find_names(pattern)
    if not names:
        raise UsageError(f"No backbone matches {pattern!r}: try a shorter part of its name.")
    shown = names[:limit]
    found = []
    with output.reporter().track("Backbones", len(shown)) as advance:
        for name in shown:
            found.append(describe(name))
            advance(1, name)
    rows = (
        (each.name, each.channels, each.stride, each.image_size, each.layers, each.weights)
        for each in found
    )
    table = list_table(["--model"], ("channels", "stride", "px", "layers", "weights"), rows)
    table.columns[-1].justify = "left"
    output.show({"matching": len(names), "backbones": [asdict(each) for each in found]}, table)
    if len(found) < len(names) and not output.json:
        output.reporter().say(
            f"Shown are {len(found)} of {len(names):,}: narrow the PATTERN, or raise --limit."
        )


@with_options()
def cache(
    action: Annotated[
        Literal["ls", "clear"], typer.Argument(help="ls shows the features, clear deletes them.")
    ],
    key: Annotated[
        str | None, typer.Argument(help="Only the features with this key, or its beginning.")
    ] = None,
    yes: Annotated[bool, switch("--yes", "Delete without asking.")] = False,
    cache_dir: Annotated[Path | None, field_option("data.cache_dir")] = None,
    *,
    output: OutputOptions,
) -> None:
    """Show or delete stored features, which can always be computed again."""
    reporter = output.reporter()
    if yes and action == "ls":
        raise UsageError("--yes has no effect with ls: leave it out.")
    from squeeze_cli.features.store import choose_spaces, default_cache_dir, remove_space
    from squeeze_cli.reports.tables import list_table

    cache_dir = cache_dir or default_cache_dir()
    spaces = choose_spaces(cache_dir, key)
    total = decimal(sum(space.bytes for space in spaces))
    if spaces and action == "clear":
        if not yes and not sys.stdin.isatty():
            raise UsageError("Without a terminal nobody can confirm: add --yes to delete.")
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
        rows = [
            (s.key[:12], s.backbone, s.layer, s.precision,
             s.image_size_px and size_text(s.image_size_px), f"{s.images:,}", decimal(s.bytes),
             f"{s.last_used.astimezone():%Y-%m-%d}")
            for s in spaces
        ]  # fmt: skip
        texts = ("key", "backbone", "layer", "precision")
        table = list_table(texts, ("px", "images", "size", "last used"), rows)
        if len(spaces) > 1:
            table.columns[6].footer, table.show_footer = total, True
        reporter.show(table)
