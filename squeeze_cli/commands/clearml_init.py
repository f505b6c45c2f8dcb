"""`squeeze clearml-init`: ask for the credentials of a ClearML server, test them and write them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.files import write_text_atomically
from squeeze_cli.trackers.credentials import (
    ENVIRONMENT,
    FIELDS,
    FILE_NAME,
    PUBLIC_HOSTS,
    CredentialsError,
    checked_credentials,
    find_problem,
    parse_api_block,
    with_public_hosts,
    write_credentials,
)
from squeeze_cli.trackers.probe import probe
from squeeze_cli.trackers.remote import run_git

EXAMPLES = (
    "squeeze clearml-init",
    "squeeze clearml-init --file ~/.config/squeeze/clearml_credentials.yaml",
    "squeeze clearml-init --api-key KEY --api-secret SECRET --non-interactive",
)
_QUESTIONS = ("API server", "Web application", "File server", "Access key",
              "Secret key (stays hidden)")  # fmt: skip


def _value(name: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(envvar=ENVIRONMENT[name], help=text)
    return option


def clearml_init(
    api_host: Annotated[str | None, _value("api_host", "API server.")] = None,
    web_host: Annotated[str | None, _value("web_host", "Web application.")] = None,
    files_host: Annotated[str | None, _value("files_host", "File server.")] = None,
    api_key: Annotated[str | None, _value("api_key", "Access key.")] = None,
    api_secret: Annotated[
        str | None,
        _value("api_secret", "Secret key; safer in the variable, which others cannot see."),
    ] = None,
    file: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")] = Path(FILE_NAME),
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

    The hosts default to ClearML's public servers. Only the file's owner can read it
    (mode 0600), and in a git checkout it is added to .gitignore.
    """
    file = file.expanduser()
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists and is kept: --overwrite replaces it.")
    reporter = Reporter()
    options = zip(FIELDS, (api_host, web_host, files_host, api_key, api_secret), strict=True)
    values = {name: value for name, value in options if value}
    if not non_interactive and sys.stdin.isatty() and not (api_key and api_secret):
        values = _ask_for_missing(values, reporter)
    try:
        credentials = checked_credentials(values, "these credentials", "give others, by options")
    except CredentialsError as error:
        raise UsageError(str(error)) from None
    if not no_check:
        reporter.say(f"Logging in to {credentials.api_host} ...")
        if reason := probe(credentials):
            raise SqueezeError(f"{reason}. Nothing was written; --no-check writes it untested.")
    try:
        write_credentials(file, credentials)
    except OSError as error:
        raise SqueezeError(f"{file}: {error.strerror}; choose another --file.") from None
    tested = "not tested" if no_check else "tested"
    reporter.say(f"Wrote {file} ({tested}). Now: squeeze train --use-clearml ...")
    if ignored_in := ignore_in_git(file):
        reporter.say(f"Added {file.name} to {ignored_in}, so that it is never committed.")


def ignore_in_git(path: Path) -> Path | None:
    """Name `path` in the `.gitignore` beside it, unless git ignores it already.

    Returns:
        The changed `.gitignore`; None outside a checkout, or where there was nothing to do.
    """
    path = path.resolve()
    if not any((folder / ".git").exists() for folder in path.parents):
        return None
    ignore_file = path.parent / ".gitignore"
    lines = ignore_file.read_text(encoding="utf-8").splitlines() if ignore_file.exists() else []
    if path.name in lines or run_git(path.parent, "check-ignore", path.name):
        return None
    write_text_atomically(ignore_file, "\n".join([*lines, path.name]) + "\n")
    return ignore_file


def _ask_for_missing(given: Mapping[str, str], reporter: Reporter) -> dict[str, str]:
    """Complete the given values by a pasted `api { ... }` block, then by questions."""
    reporter.say(
        "Paste ClearML's `api { ... }` block (it stays hidden),\n"
        "or press Enter to give the values one by one."
    )
    pasted = parse_api_block(_read_hidden_block())
    usable = {name: value for name, value in pasted.items() if not find_problem(name, value)}
    if usable:
        reporter.say(f"Found {', '.join(usable)}.")
    values = {**usable, **given}
    for name, question in zip(FIELDS, _QUESTIONS, strict=True):
        if name not in values:
            default = with_public_hosts(values).get(name) if name in PUBLIC_HOSTS else None
            values[name] = typer.prompt(
                question,
                default,
                hide_input=name == "api_secret",
                value_proc=partial(_checked, name),
                err=True,
            )
    return values


def _checked(name: str, answer: str) -> str:
    if problem := find_problem(name, answer):
        raise typer.BadParameter(f"It {problem}.")
    return answer


def _read_hidden_block() -> str:
    """Read lines without echo, up to the brace that closes the first one or to an empty line."""
    text, depth = "", 0
    with _no_echo():
        while line := sys.stdin.readline():
            text += line
            depth += line.count("{") - line.count("}")
            if depth <= 0 and (not line.strip() or "}" in line):
                break
    return text


@contextmanager
def _no_echo() -> Iterator[None]:
    """Hide what is typed; unlike getpass, keep the pasted lines that have already arrived."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    before, hidden = termios.tcgetattr(sys.stdin), termios.tcgetattr(sys.stdin)
    hidden[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, hidden)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
