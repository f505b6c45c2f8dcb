"""`--remote-queue`: the same command on another machine, through a ClearML agent's queue.

The agent clones the repository that squeeze runs from at its present commit, applies what is not
committed yet, installs the recorded requirement, and runs `python -m squeeze_cli` with the same
arguments. Squeeze installed from a package index is installed from there, in the same version.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import squeeze_cli
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.config.yaml_files import to_mapping
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError
from squeeze_cli.trackers.clearml_end import end_task
from squeeze_cli.trackers.clearml_task import ClearMLUnavailableError, start_task

# These mean something on this machine alone.
_LOCAL_FLAGS = ("--remote-queue", "--credentials", "--credentials-file")


@dataclass(frozen=True)
class Source:
    """Where the agent gets squeeze from; `repository` is empty for an installed package."""

    requirement: str
    repository: str = ""
    branch: str = ""
    commit: str = ""
    diff: str = ""


def send_to_queue(
    config: ExperimentConfig, queue: str, arguments: Sequence[str], reporter: Reporter
) -> dict[str, str]:
    """Put this command on a ClearML queue; returns the task's id, page, queue and command.

    Raises SqueezeError where ClearML cannot be used, or has no such queue.
    """
    source = find_source(reporter)
    command = remote_command(arguments)
    try:
        session = start_task(config, None, reporter, detect=False)
    except ClearMLUnavailableError as error:
        raise SqueezeError(f"{error}; --remote-queue needs it.") from None
    task = session.task
    sent: list[BaseException | None] = []

    def enqueue() -> None:
        from clearml import Task

        try:
            task.update_parameters(_parameters(config))
            task.set_script(
                repository=source.repository, branch=source.branch, commit=source.commit,
                diff=source.diff, working_dir=".", entry_point=f"-m squeeze_cli {command}",
            )  # fmt: skip
            task.set_packages([source.requirement])
            # `task.execute_remotely` does the following, and ends the process before we can speak.
            task.close()
            task.mark_stopped(force=True)
            Task.enqueue(task, queue_name=queue)
            sent.append(None)
        except Exception as error:  # noqa: BLE001 - the SDK raises what it likes
            sent.append(error)

    page = str(task.get_output_log_web_page())
    missed = end_task(session, reporter, "finished", enqueue)
    if sent != [None]:
        reason = f"{sent[0]}" if sent else f"{missed}"
        raise SqueezeError(
            f"ClearML did not take the task ({' '.join(reason.split())[:200]}): check that the "
            f"queue {queue!r} exists and that an agent serves it."
        )
    return {"task_id": str(task.id), "page": page, "queue": queue, "command": command}


def remote_command(arguments: Sequence[str]) -> str:
    """The arguments for the agent: without what only this machine knows, always with ClearML."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-") if argument.startswith("--") else ""
        if skip:
            skip = False
        elif name in _LOCAL_FLAGS:
            skip = "=" not in argument
        else:
            kept.append(argument)
    if not any(argument.replace("_", "-") == "--use-clearml" for argument in kept):
        kept.append("--use-clearml")
    return shlex.join(kept)


def find_source(reporter: Reporter) -> Source:
    """The checkout that squeeze runs from, or the package that it is."""
    folder = Path(squeeze_cli.__file__).resolve().parent
    root = _git(folder, "rev-parse", "--show-toplevel")
    package = Source(f"squeeze-cli=={squeeze_cli.__version__}")
    if root is None or Path(root) != folder.parent:
        return package
    repository = _without_login(_git(folder, "remote", "get-url", "origin") or "")
    commit = _git(folder, "rev-parse", "HEAD")
    if not repository or commit is None:
        raise SqueezeError(
            "--remote-queue: this checkout has no remote 'origin' that an agent could clone: "
            "`git remote add origin URL` and push."
        )
    if not _git(folder, "branch", "--remotes", "--contains", commit):
        reporter.warn(f"The commit {commit[:12]} is on no remote branch: push it for the agent.")
    return Source(
        requirement=f"squeeze-cli @ git+{_as_url(repository)}@{commit}",
        repository=repository,
        branch=_git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "",
        commit=commit,
        diff=_git(Path(root), "diff", "HEAD") or "",
    )


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, None where it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    keep_newline = arguments[0] == "diff"
    return (done.stdout if keep_newline else done.stdout.strip()) if done.returncode == 0 else None


def _without_login(url: str) -> str:
    """An http(s) URL without user name and token, which others would read in the task."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _as_url(repository: str) -> str:
    """`git@host:path` as pip wants it."""
    short = re.fullmatch(r"([\w.-]+@[\w.-]+):(?!/)(.+)", repository)
    return f"ssh://{short[1]}/{short[2]}" if short else repository


def _parameters(config: ExperimentConfig) -> dict[str, object]:
    return {
        f"{section}/{name}": value
        for section, content in to_mapping(config).items()
        if isinstance(content, dict)
        for name, value in content.items()
    }
