"""`squeeze clearml-init`: ask for the credentials of a ClearML server, test them and write them."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.options import option, switch
from squeeze_cli.trackers.clearml import run_git
from squeeze_cli.trackers.credentials import (
    ENVIRONMENT,
    FIELDS,
    FILE_NAME,
    ClearMLUnavailableError,
    checked_credentials,
    find_problem,
    probe,
    with_public_hosts,
    write_credentials,
)

EXAMPLES = (
    "squeeze clearml-init",
    "squeeze clearml-init --file ~/.config/squeeze/clearml_credentials.yaml",
    "squeeze clearml-init --api-key KEY --non-interactive",
)
_QUESTIONS = ("API server", "Web application", "File server", "Access key", "Secret key (hidden)")


def clearml_init(
    api_host: Annotated[str | None, option("API server.", envvar=ENVIRONMENT["api_host"])] = None,
    web_host: Annotated[
        str | None, option("Web application.", envvar=ENVIRONMENT["web_host"])
    ] = None,
    files_host: Annotated[
        str | None, option("File server.", envvar=ENVIRONMENT["files_host"])
    ] = None,
    api_key: Annotated[str | None, option("Access key.", envvar=ENVIRONMENT["api_key"])] = None,
    api_secret: Annotated[
        str | None,
        option(
            "Secret key; safer in the variable, which others cannot see.",
            envvar=ENVIRONMENT["api_secret"],
        ),
    ] = None,
    file: Annotated[Path, option("File to write.", "FILE")] = Path(FILE_NAME),
    non_interactive: Annotated[bool, switch("--non-interactive", "Ask nothing.")] = False,
    no_check: Annotated[bool, switch("--no-check", "Do not log in to test them.")] = False,
    overwrite: Annotated[bool, switch("--overwrite", "Replace an existing file.")] = False,
) -> None:
    """Ask for a ClearML server's address and credentials, test them, and write them.

    The hosts default to ClearML's public servers. Only you can read the file, and git ignores it.
    """
    file = file.expanduser()
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists and is kept: --overwrite replaces it.")
    reporter = Reporter()
    options = zip(FIELDS, (api_host, web_host, files_host, api_key, api_secret), strict=True)
    values = {name: value for name, value in options if value}
    if not non_interactive and sys.stdin.isatty() and not (api_key and api_secret):
        try:
            ask_for_missing(values)
        except typer.Abort:  # Typer raises it at Ctrl-C
            raise KeyboardInterrupt from None
    try:
        credentials = checked_credentials(values, "these credentials", "give others, by options")
    except ClearMLUnavailableError as error:
        raise UsageError(str(error)) from None
    if not no_check:
        reporter.say(f"Logging in to {credentials.api_host} ...")
        if reason := probe(credentials):
            raise SqueezeError(f"{reason}. Nothing was written; --no-check writes it untested.")
    write_credentials(file, credentials)
    keep_out_of_git(file.resolve())
    tested = "not tested" if no_check else "tested"
    reporter.say(f"Wrote {file} ({tested}). Now: squeeze train --use-clearml ...")


def ask_for_missing(values: dict[str, str]) -> None:
    """Complete `values` by questions; the secret is not shown while it is typed."""

    def checked(name: str, answer: str) -> str:
        if problem := find_problem(name, answer):
            raise typer.BadParameter(f"It {problem}.")
        return answer

    for name, question in zip(FIELDS, _QUESTIONS, strict=True):
        if name not in values:
            values[name] = typer.prompt(
                question, with_public_hosts(values).get(name), err=True,
                hide_input=name == "api_secret", value_proc=partial(checked, name),
            )  # fmt: skip


def keep_out_of_git(file: Path) -> None:
    """Add a file in a checkout to git's local list of ignored files, unless git ignores it already."""
    place = run_git(file.parent, "rev-parse", "--git-path", "info/exclude").strip()
    if place and not run_git(file.parent, "check-ignore", file.name):
        exclude = file.parent / place
        exclude.parent.mkdir(exist_ok=True)
        with exclude.open("a", encoding="utf-8") as listed:
            listed.write(f"\n{file.name}\n")  # the last line may lack its line break
