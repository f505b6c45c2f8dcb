"""`squeeze clearml-init` gets five values from options, a pasted block, or questions."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.files import write_text_atomically
from squeeze_cli.trackers.credentials import (
    FIELDS,
    PUBLIC_HOSTS,
    Credentials,
    checked_credentials,
    find_problem,
    find_problems,
    parse_api_block,
    with_public_hosts,
    write_credentials,
)
from squeeze_cli.trackers.probe import probe

_QUESTIONS = dict(
    zip(
        FIELDS,
        ("API server", "Web application", "File server", "Access key", "Secret key (stays hidden)"),
        strict=True,
    )
)


def gather_credentials(
    given: Mapping[str, str | None], interactive: bool, reporter: Reporter
) -> Credentials:
    """Return five valid values: those given, and the rest from questions.

    Raises UsageError where something is missing and nobody can be asked.
    """
    values = {name: value for name, value in given.items() if value}
    if interactive and not {"api_key", "api_secret"} <= values.keys():
        values = {**_ask_for_block(reporter), **values}
        for name in FIELDS:
            if name not in values:
                values[name] = _ask(name, values, reporter)
    values = with_public_hosts(values)
    missing = [f"--{name.replace('_', '-')}" for name in FIELDS if name not in values]
    if missing:
        raise UsageError(f"Without a terminal to ask on, give {', '.join(missing)}.")
    problems = find_problems(values)
    if problems:
        raise UsageError(f"These credentials cannot be used: {'; '.join(problems)}.")
    return checked_credentials(values, "the values given", "give others")


def save_credentials(
    path: Path, credentials: Credentials, *, check: bool, reporter: Reporter
) -> None:
    """Try the credentials on their server, then write them and keep them out of git.

    Raises SqueezeError, and writes nothing, where the server does not accept them.
    """
    if check:
        reporter.say(f"Logging in to {credentials.api_host} ...")
        reason = probe(credentials)
        if reason is not None:
            raise SqueezeError(f"{reason}. Nothing was written; --no-check writes it untested.")
    try:
        write_credentials(path, credentials)
    except OSError as error:
        raise SqueezeError(
            f"Cannot write {path}: {error.strerror}; choose another --file."
        ) from None
    tried = "tested" if check else "not tested"
    reporter.say(f"Wrote {path} ({tried}). Now: squeeze train --use-clearml ...")
    if ignored_in := ignore_in_git(path):
        reporter.say(f"Added {path.name} to {ignored_in}, so that it is never committed.")


def ignore_in_git(path: Path) -> Path | None:
    """Name `path` in its checkout's `.gitignore`, unless git ignores it already.

    Returns the changed `.gitignore`, None where there was nothing to do.
    """
    path = path.resolve()
    checkout = next((f for f in path.parents if (f / ".git").exists()), None)
    if checkout is None:
        return None
    try:
        command = ["git", "-C", str(path.parent), "check-ignore", "-q", path.name]
        ignored = subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        ignored = False
    ignore_file = checkout / ".gitignore"
    lines = ignore_file.read_text(encoding="utf-8").splitlines() if ignore_file.exists() else []
    if ignored or path.name in map(str.strip, lines):
        return None
    write_text_atomically(ignore_file, "\n".join([*lines, path.name]) + "\n")
    return ignore_file


def _ask_for_block(reporter: Reporter) -> dict[str, str]:
    """Read a pasted `api { ... }` block; return nothing where the person only presses Enter."""
    while True:
        reporter.say(
            "Paste ClearML's `api { ... }` block (it stays hidden),\n"
            "or press Enter to give the values one by one."
        )
        with _hidden_input():
            text = _read_block()
        if not text.strip():
            return {}
        values = parse_api_block(text)
        problems = [f"{n} {p}" for n, v in values.items() if (p := find_problem(n, v))]
        if values and not problems:
            reporter.say(f"Found {', '.join(values)}.")
            return values
        reporter.say(
            f"That does not work ({'; '.join(problems) or 'no api_server, access_key, ...'})."
        )


def _read_block() -> str:
    """Read lines up to the brace that closes the first one, or to an empty line."""
    text, depth = "", 0
    while line := sys.stdin.readline():
        text += line
        depth += line.count("{") - line.count("}")
        if depth <= 0 and (not line.strip() or "}" in line):
            break
    return text


def _ask(name: str, known: Mapping[str, str], reporter: Reporter) -> str:
    """Ask for one value until it can be used."""
    default = with_public_hosts(known).get(name) if name in PUBLIC_HOSTS else None
    question = f"{_QUESTIONS[name]}{f' [{default}]' if default else ''}: "
    while True:
        if name == "api_secret":
            answer = getpass.getpass(question, stream=sys.stderr)
        else:
            print(question, end="", file=sys.stderr, flush=True)  # noqa: T201 - no line end
            answer = sys.stdin.readline()
            if not answer:
                raise SqueezeError("The input ended before all values were given: start again.")
        value = answer.strip() or default or ""
        problem = find_problem(name, value)
        if problem is None:
            return value
        reporter.say(f"It {problem}.")


@contextmanager
def _hidden_input() -> Iterator[None]:
    """Show nothing of what is typed or pasted; unlike getpass, keep what is already there."""
    if os.name != "posix" or not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    hidden = termios.tcgetattr(sys.stdin)
    hidden[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, hidden)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        print(file=sys.stderr)  # noqa: T201
