"""What commands share to say and show things."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_cli.console import Reporter
from squeeze_cli.errors import UsageError

FIGURE_SUFFIXES = (".png", ".svg")


def make_reporter(flags: Mapping[str, Any]) -> Reporter:
    """A reporter as loud as the flags ask."""
    if flags.get("quiet") and flags.get("verbose"):
        raise UsageError("--quiet and --verbose contradict each other: leave one out.")
    return Reporter(
        quiet=bool(flags.get("quiet")),
        verbose=bool(flags.get("verbose")),
        progress=not flags.get("no_progress"),
    )


def check_figure_name(flag: str, path: Path | None) -> None:
    """Raise UsageError unless the file's name ends in a format that figures are drawn in."""
    if path is not None and path.suffix.lower() not in FIGURE_SUFFIXES:
        raise UsageError(f"{flag} {path}: name a file that ends in .png or .svg.")


def print_json(value: Any) -> None:
    """JSON to stdout: data, whatever the terminal."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
