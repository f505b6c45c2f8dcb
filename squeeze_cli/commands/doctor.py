"""`squeeze doctor`: is everything there that training needs?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from squeeze_cli.commands.output import print_json
from squeeze_cli.console import Reporter
from squeeze_cli.options import DATA_FLAGS, OUTPUT_FLAGS, TRACKING_FLAGS, takes

EXAMPLES = (
    "squeeze doctor",
    "squeeze doctor --data-dir data --json",
)
_TAKEN = {"data.data_dir", "data.cache_dir", "logger.credentials_file", "json"}
_FLAGS = tuple(
    flag for flag in (*DATA_FLAGS, *TRACKING_FLAGS, *OUTPUT_FLAGS) if flag.target in _TAKEN
)


@takes(_FLAGS)
def doctor(**flags: Any) -> None:
    """Check versions, devices, cache, disk, data, weights and ClearML; say what mends what.

    Exits with 1 where something keeps squeeze from working. Nothing is downloaded or written.
    """
    from squeeze_cli.commands.checks import ERROR, run_checks
    from squeeze_cli.reports.tables import check_line

    cache_dir, credentials = flags["data__cache_dir"], flags["logger__credentials_file"]
    reporter, checks = Reporter(), []
    for check in run_checks(
        Path(flags["data__data_dir"] or "data"),
        Path(cache_dir) if cache_dir else None,
        Path(credentials).expanduser() if credentials else None,
    ):
        checks.append(check)
        if not flags["json"]:
            reporter.show(check_line(check.status, check.name, check.found, check.mend))
    if flags["json"]:
        print_json({"checks": [asdict(check) for check in checks]})
    if any(check.status == ERROR for check in checks):
        raise typer.Exit(1)
