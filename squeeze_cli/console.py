"""Output for people: data on stdout, messages and progress on stderr.

A terminal shows colours, unless NO_COLOR is set, and progress bars. Elsewhere the output is plain text,
with lines of progress at intervals.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# Without a terminal a progress line is printed at most this often.
PLAIN_INTERVAL_S = 10.0

Advance = Callable[[int, str], None]


def no_advance(steps: int, note: str = "") -> None:
    """Do nothing, where no progress is shown."""


@dataclass(frozen=True)
class Reporter:
    """Printer of data, messages and progress.

    Attributes:
        quiet: Print only warnings and errors.
        verbose: Let libraries print their messages too.
        progress: Show progress bars, or lines where there is no terminal.
    """

    quiet: bool = False
    verbose: bool = False
    progress: bool = True
    out: Console = field(default_factory=lambda: _console())
    err: Console = field(default_factory=lambda: _console(stderr=True))

    def show(self, renderable: RenderableType) -> None:
        """Print a table or a text to stdout, unless quiet."""
        if not self.quiet:
            self.out.print(renderable)

    def say(self, text: str) -> None:
        """Print a message to stderr, unless quiet."""
        if not self.quiet:
            self._write("\n".join(map(printable, text.split("\n"))))

    def warn(self, text: str) -> None:
        """Print a warning to stderr, even if quiet, because it concerns the result."""
        self._write(f"Warning: {printable(text)}")

    def _write(self, text: str) -> None:
        self.err.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Advance]:
        """Show progress over `total` steps.

        The block gets a function to call with a number of further steps and a note.
        """
        if self.quiet or not self.progress:
            yield no_advance
        elif not self.err.is_terminal:
            yield self._lines(description, total)
        else:
            from rich import progress as rich

            columns = (
                rich.TextColumn("{task.description}"),
                rich.BarColumn(bar_width=20),
                rich.MofNCompleteColumn(),
                rich.TimeRemainingColumn(compact=True),
                rich.TextColumn("{task.fields[note]}", style="dim"),
            )
            with rich.Progress(*columns, console=self.err) as bar:
                task = bar.add_task(description, total=total, note="")

                def advance(steps: int, note: str = "") -> None:
                    bar.update(task, advance=steps, note=note or bar.tasks[0].fields["note"])

                yield advance

    def _lines(self, description: str, total: int) -> Advance:
        done, last = 0, time.monotonic()

        def advance(steps: int, note: str = "") -> None:
            nonlocal done, last
            done += steps
            now = time.monotonic()
            if done >= total or now - last >= PLAIN_INTERVAL_S:
                last = now
                self._write(f"{description} {done}/{total}{f'  {note}' if note else ''}")

        return advance


def printable(text: str) -> str:
    """Return a text as one line, with control characters and lone surrogates escaped.

    So a file name in a message can neither break the line nor colour the terminal. The middle of a text
    that is longer than a screen is left out.
    """
    if len(text) > 2000:
        text = f"{text[:1400]} [...] {text[-400:]}"
    special = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
    return re.sub(special, lambda match: repr(match[0])[1:-1], text)


def _console(stderr: bool = False) -> Console:
    from rich.console import Console  # a usage error is printed without rich

    class PipedConsole(Console):
        def on_broken_pipe(self) -> None:
            _stop_at_broken_pipe()

    # Brackets and colons in file names must not be read as markup.
    return PipedConsole(highlight=False, markup=False, emoji=False, stderr=stderr)


def print_text(text: str) -> None:
    """Print a text to stdout as it is, independent of any reporter."""
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        _stop_at_broken_pipe()


def print_json(value: object) -> None:
    """Print JSON to stdout, independent of any reporter; numbers that are not finite become null."""
    content = json.loads(json.dumps(value), parse_constant=lambda _: None)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:  # JSON's escapes are ASCII
        text = json.dumps(content, indent=2)
    print_text(f"{text}\n")


def prepare_streams() -> None:
    """Let stdout accept any character, and open closed streams, so that no file gets their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def flush_output() -> OSError | None:
    """Flush stdout; where this fails, discard the buffered output and return the error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _stop_at_broken_pipe()
    except OSError as error:
        _drop_output()
        return error
    return None


def _stop_at_broken_pipe() -> NoReturn:
    """Exit as if by SIGPIPE, because the reader of the output, such as `head`, has ended."""
    _drop_output()
    raise SystemExit(141)


def _drop_output() -> None:
    """Send buffered output to the null device, because Python flushes stdout when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
