"""`squeeze doctor`: whether everything is there that training needs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from squeeze_cli.commands.output import print_json
from squeeze_cli.console import Reporter
from squeeze_cli.options import Credentials, Json, field_option

EXAMPLES = (
    "squeeze doctor",
    "squeeze doctor --data-dir data --json",
)


def doctor(
    data_dir: Annotated[Path, field_option("data.data_dir")] = Path("data"),
    cache_dir: Annotated[Path | None, field_option("data.cache_dir")] = None,
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Check versions, devices, cache, disk, data, weights and ClearML; say what fixes what.

    Exits with 1 where something keeps squeeze from working. Nothing is downloaded or written.
    """
    from squeeze_cli.commands.checks import ERROR, run_checks
    from squeeze_cli.reports.tables import check_line

    file = Path(credentials).expanduser() if credentials else None
    reporter, checks = Reporter(), []
    for check in run_checks(data_dir, cache_dir, file):
        checks.append(check)
        if not json:
            reporter.show(check_line(check.status, check.name, check.found, check.fix))
    if json:
        print_json({"checks": [asdict(check) for check in checks]})
    if any(check.status == ERROR for check in checks):
        raise typer.Exit(1)
