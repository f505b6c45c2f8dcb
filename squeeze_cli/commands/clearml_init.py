"""`squeeze clearml-init`: write the credentials of a ClearML server, tested, once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from squeeze_cli.console import Reporter
from squeeze_cli.errors import UsageError
from squeeze_cli.trackers.credentials import ENVIRONMENT, FIELDS, FILE_NAME

EXAMPLES = (
    "squeeze clearml-init",
    "squeeze clearml-init --file ~/.config/squeeze/clearml_credentials.yaml",
    "squeeze clearml-init --api-key KEY --api-secret SECRET --non-interactive",
)


def _value(name: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        f"--{name.replace('_', '-')}",
        envvar=ENVIRONMENT[name],
        help=text,
        metavar="URL" if name.endswith("host") else "TEXT",
        show_default=False,
    )
    return option


def clearml_init(
    api_host: Annotated[str | None, _value("api_host", "API server.")] = None,
    web_host: Annotated[str | None, _value("web_host", "Web application.")] = None,
    files_host: Annotated[str | None, _value("files_host", "File server.")] = None,
    api_key: Annotated[str | None, _value("api_key", "Access key.")] = None,
    api_secret: Annotated[
        str | None,
        _value(
            "api_secret", "Secret key; safer in the variable: everyone sees the flags of a process."
        ),
    ] = None,
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="Where to write.")] = Path(
        FILE_NAME
    ),
    non_interactive: Annotated[
        bool, typer.Option("--non-interactive", help="Ask nothing.")
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not try the credentials on the server.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
) -> None:
    """Ask for a ClearML server's address and credentials, test them, and write them.

    The hosts default to ClearML's public servers. The file is for its owner
    alone (mode 0600), and in a git checkout it is added to .gitignore.
    """
    from squeeze_cli.trackers.credentials_setup import gather_credentials, save_credentials

    file = file.expanduser()
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists and is kept: --overwrite replaces it.")
    reporter = Reporter()
    given = dict(zip(FIELDS, (api_host, web_host, files_host, api_key, api_secret), strict=True))
    interactive = not non_interactive and sys.stdin.isatty()
    credentials = gather_credentials(given, interactive, reporter)
    save_credentials(file, credentials, check=not no_check, reporter=reporter)
