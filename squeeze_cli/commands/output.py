"""Printing of results and messages, shared by all commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from squeeze_cli.console import Reporter
from squeeze_cli.errors import UsageError

FIGURE_SUFFIXES = (".png", ".svg")


def make_reporter(
    quiet: bool = False, verbose: bool = False, no_progress: bool = False
) -> Reporter:
    """Return a reporter as loud as the options ask."""
    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other: leave one out.")
    return Reporter(quiet=quiet, verbose=verbose, progress=not no_progress)


def check_figure_name(flag: str, path: Path | None) -> None:
    """Raise UsageError unless the name of the file ends in a format that figures are drawn in."""
    if path is not None and path.suffix.lower() not in FIGURE_SUFFIXES:
        raise UsageError(f"{flag} {path}: name a file that ends in .png or .svg.")


def print_json(value: object) -> None:
    """Print JSON to stdout, also where the reporter is quiet."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
