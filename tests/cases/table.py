"""One row of the table of cases, and how it is run.

The rows stand in the modules `rows_*.py`, each in a tuple `ROWS`; `test_cases.py` runs them all. A
row passes if the exit code is the one named, the output says what must be said, nothing ends in a
traceback or hangs, and no file that existed before has changed, but those in `writes`.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from typer.testing import CliRunner

from squeeze_cli.cli import app
from tests import cases
from tests.conftest import EXECUTABLE

HANG_SECONDS = 15
# What `{T}` in a command stands for: the smallest training.
TINY_TRAINING = (
    "--model efficientnet-lite0 --epochs 1 --subset-size 20 --max-batches 2 --image-size 64 "
    "--num-workers 0 --no-progress"
)


@dataclass(frozen=True)
class Case:
    """An input, a command line, and what must happen.

    Attributes:
        name: What the case is, in a few words; unique in its module.
        command: The command line after `squeeze`, run in a folder of its own; `{T}` is
            `TINY_TRAINING`.
        code: The exit code.
        says: Texts that stdout and stderr, with all white space made one blank, must hold.
        silent_on: Texts that they must not hold.
        uses: What is copied into the folder before: names of folders and files of `stock`.
        make: Makes or changes the input, given the folder.
        writes: Top-level names of the folder that the command may change.
        check: Further checks on the folder after the command.
        env: Environment variables.
        executable: Run the real executable in place of its `main` in this process.
    """

    name: str
    command: str
    code: int = 0
    says: tuple[str, ...] = ()
    silent_on: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    make: Callable[[Path], object] | None = None
    writes: tuple[str, ...] = ("runs",)
    check: Callable[[Path], object] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    executable: bool = False


def all_cases() -> Iterator[tuple[str, Case]]:
    """Give every row with the name of its module."""
    for module in pkgutil.iter_modules(cases.__path__):
        if module.name.startswith("rows_"):
            rows: tuple[Case, ...] = importlib.import_module(f"tests.cases.{module.name}").ROWS
            yield from ((module.name.removeprefix("rows_"), case) for case in rows)


def check_case(case: Case, folder: Path, stock: Path) -> None:
    """Run a case in the empty `folder` and check what happens."""
    for name in case.uses:
        source, copy = stock / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    if case.make is not None:
        case.make(folder)
    before = digests(folder, case.writes)
    code, output = run(case, folder)
    assert "Traceback" not in output, output
    assert code == case.code, f"exit code {code}\n{output}"
    if code:
        assert "Error:" in output, output
    plain = " ".join(output.split())
    for text in case.says:
        assert text in plain, f"{text!r} is not in\n{output}"
    for text in case.silent_on:
        assert text not in plain, f"{text!r} is in\n{output}"
    after = digests(folder, case.writes)
    changed = {name for name, digest in before.items() if after.get(name) != digest}
    assert not changed, f"changed or deleted: {sorted(changed)}"
    assert not list(folder.rglob(".*.part")), "a temporary file was left"
    if case.check is not None:
        case.check(folder)


def run(case: Case, folder: Path) -> tuple[int, str]:
    """Run the case's command in `folder`; return its exit code and all its output."""
    arguments = shlex.split(case.command.replace("{T}", TINY_TRAINING))
    env = {"COLUMNS": "80", **case.env}
    if case.executable:
        done = subprocess.run(
            [str(EXECUTABLE), *arguments],
            cwd=folder, env={**os.environ, **env}, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=4 * HANG_SECONDS, check=False,
        )  # fmt: skip
        return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")
    with inside(folder), at_most(HANG_SECONDS):
        result = CliRunner().invoke(app, arguments, env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def digests(folder: Path, writes: tuple[str, ...]) -> dict[str, str]:
    """Return a digest of each regular file that the command must leave as it is."""
    return {
        str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in writes
    }


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Make `folder` the working directory while the block runs."""
    previous = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(previous)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise AssertionError in a block that takes longer."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"still running after {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
