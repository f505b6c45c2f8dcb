"""How `squeeze clearml-init` comes to five values: from flags, a pasted block, or questions."""

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
from squeeze_cli.trackers.clearml_conf import parse_api_block
from squeeze_cli.trackers.credentials import (
    FIELDS,
    HOST_FIELDS,
    Credentials,
    checked_credentials,
    find_problem,
    find_problems,
    with_public_hosts,
    write_credentials,
)
from squeeze_cli.trackers.probe import probe

_QUESTIONS = {
    "api_host": "API server",
    "web_host": "Web application",
    "files_host": "File server",
    "api_key": "Access key",
    "api_secret": "Secret key (stays hidden)",
}
_SPELLINGS = {name: f"--{name.replace('_', '-')}" for name in FIELDS}


def gather_credentials(
    given: Mapping[str, str | None], interactive: bool, reporter: Reporter
) -> Credentials:
    """Five valid values: those given, the rest asked for.

    Raises UsageError where something is missing and nobody can be asked.
    """
    values = {name: value for name, value in given.items() if value}
    if interactive and not {"api_key", "api_secret"} <= values.keys():
        values = {**_ask_for_block(reporter), **values}
        for name in FIELDS:
            if name not in values:
                values[name] = _ask(name, values, reporter)
    values = with_public_hosts(values)
    missing = [_SPELLINGS[name] for name in FIELDS if name not in values]
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

    Raises SqueezeError where the server does not take them; nothing is written then.
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
    ignored_in = ignore_in_git(path)
    if ignored_in is not None:
        reporter.say(f"Added {path.name} to {ignored_in}, so that it is never committed.")


def ignore_in_git(path: Path) -> Path | None:
    """Name `path` in its checkout's `.gitignore` unless git ignores it already.

    Returns the `.gitignore` that was changed, None where there was nothing to do.
    """
    folder = path.resolve().parent
    checkout = next((f for f in (folder, *folder.parents) if (f / ".git").exists()), None)
    if checkout is None:
        return None
    try:
        ignored = subprocess.run(
            ["git", "-C", str(folder), "check-ignore", "-q", path.name],
            capture_output=True, timeout=10, check=False,
        ).returncode == 0  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        ignored = False
    ignore_file = checkout / ".gitignore"
    lines = ignore_file.read_text(encoding="utf-8").splitlines() if ignore_file.exists() else []
    if ignored or path.name in (line.strip() for line in lines):
        return None
    write_text_atomically(ignore_file, "\n".join([*lines, path.name]) + "\n")
    return ignore_file


def _ask_for_block(reporter: Reporter) -> dict[str, str]:
    """Values of a pasted `api { ... }` block; empty where the person only presses Enter."""
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
    """Lines up to the brace that closes the first one, or to an empty line."""
    lines: list[str] = []
    depth = 0
    while True:
        line = sys.stdin.readline()
        depth += line.count("{") - line.count("}")
        if not line.strip() and depth <= 0:
            return "".join(lines)
        lines.append(line)
        if not line or (depth <= 0 and "}" in line):
            return "".join(lines)


def _ask(name: str, known: Mapping[str, str], reporter: Reporter) -> str:
    """One value, asked for until it can be used."""
    default = with_public_hosts(known).get(name) if name in HOST_FIELDS else None
    while True:
        if name == "api_secret":
            answer = getpass.getpass(f"{_QUESTIONS[name]}: ", stream=sys.stderr)
        else:
            sys.stderr.write(f"{_QUESTIONS[name]}{f' [{default}]' if default else ''}: ")
            sys.stderr.flush()
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
    """The terminal shows nothing of what is typed or pasted; what is waiting is kept."""
    if os.name != "posix" or not sys.stdin.isatty():
        yield
        return
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    hidden = termios.tcgetattr(descriptor)
    hidden[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSADRAIN, hidden)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        sys.stderr.write("\n")
