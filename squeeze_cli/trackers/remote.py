"""`--remote-queue`: run the same command on another machine, through a ClearML agent's queue.

The agent clones the repository that squeeze runs from at its present commit, applies the changes
that are not committed yet, installs the recorded requirement, and runs `python -m squeeze_cli` with
the same arguments. It installs a squeeze from a package index in the same version from there.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import squeeze_cli
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError
from squeeze_cli.trackers.clearml_task import (
    ClearMLTask,
    ClearMLUnavailableError,
    flat_parameters,
    require_sdk,
    usable_credentials,
)

_PACKAGE = "squeeze-cli"
_REQUIREMENT = f"{_PACKAGE}[clearml]"
# These flags make sense on this machine alone.
_LOCAL_FLAGS = ("--remote-queue", "--credentials", "--credentials-file")


@dataclass(frozen=True)
class Source:
    """Origin of squeeze for an agent; `repository` is empty for an installed package."""

    requirement: str
    repository: str = ""
    branch: str = ""
    commit: str = ""
    diff: str = ""

    def describe(self, command: str) -> dict[str, dict[str, str] | list[str]]:
        """Return what a task records so that an agent can run `squeeze COMMAND`."""
        script = {name: value for name, value in vars(self).items() if name != "requirement"}
        script |= {"working_dir": ".", "entry_point": f"-m squeeze_cli {command}"}
        return {"script": script, "packages": [self.requirement]}


def send_to_queue(
    config: ExperimentConfig, queue: str, arguments: Sequence[str], reporter: Reporter
) -> dict[str, str]:
    """Put this command on a ClearML queue; return the task's id, page, queue and command.

    Raises SqueezeError where ClearML cannot be used, or has no such queue.
    """
    require_sdk()
    source = find_source(reporter)
    command = remote_command(arguments)
    try:
        credentials = usable_credentials(config, reporter)
    except ClearMLUnavailableError as error:
        raise SqueezeError(f"{error}; --remote-queue needs it.") from None
    task = ClearMLTask(reporter)
    task.connect(credentials, offline=False)
    answer = task.finish(
        "enqueue",
        "queued",
        queue_name=queue,
        project_name=config.logger.project_name,
        task_name=config.logger.task_name or config.name or "squeeze",
        tags=config.logger.clearml_tags,
        parameters=flat_parameters(config.model_dump(mode="json")),
        source=source.describe(command),
    )
    if isinstance(answer, str):
        raise SqueezeError(
            f"ClearML did not take the task ({answer}): check that the queue {queue!r} exists and "
            "that an agent serves it."
        )
    return {"task_id": answer["task_id"], "page": answer["page"], "queue": queue,
            "command": command}  # fmt: skip


def remote_command(arguments: Sequence[str]) -> str:
    """Return the arguments for the agent: without local flags, always with `--use-clearml`."""
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
    """Return the present source of squeeze for an agent, which must be able to clone it.

    Raises SqueezeError where it cannot; a commit that is not pushed is a warning.
    """
    source = _present_source()
    if source.commit and not source.repository:
        raise SqueezeError(
            "--remote-queue: this checkout has no remote 'origin' that an agent could clone: "
            "`git remote add origin URL` and push."
        )
    if source.commit and not _git("branch", "--remotes", "--contains", source.commit):
        commit = source.commit[:12]
        reporter.warn(f"The commit {commit} is on no remote branch: push it for the agent.")
    return source


def describe_source(arguments: Sequence[str]) -> dict[str, dict[str, str] | list[str]]:
    """Return what a task of this process records: repository, command and installed packages."""
    described = _present_source().describe(shlex.join(arguments))
    installed = sorted(f"{d.name}=={d.version}" for d in distributions() if d.name != _PACKAGE)
    return described | {"packages": [*described["packages"], *installed]}


def _present_source() -> Source:
    """Return the checkout that squeeze runs from, or the package that it is."""
    root = _git("rev-parse", "--show-toplevel")
    package = Source(f"{_REQUIREMENT}=={squeeze_cli.__version__}")
    if root is None or Path(root) != _folder().parent:
        return package
    repository = _without_login(_git("remote", "get-url", "origin") or "")
    commit = _git("rev-parse", "HEAD") or ""
    # pip wants `git@host:path` as a URL.
    url = re.sub(r"^([\w.-]+@[\w.-]+):(?!/)", r"ssh://\1/", repository)
    return Source(
        requirement=f"{_REQUIREMENT} @ git+{url}@{commit}" if url else package.requirement,
        repository=repository,
        branch=_git("rev-parse", "--abbrev-ref", "HEAD") or "",
        commit=commit,
        diff=_git("diff", "HEAD", ":/") or "",
    )


def _folder() -> Path:
    return Path(squeeze_cli.__file__).resolve().parent


def _git(*arguments: str) -> str | None:
    """Return the output of git, None where it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_folder()), *arguments],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    keep_newline = arguments[0] == "diff"
    return (done.stdout if keep_newline else done.stdout.strip()) if done.returncode == 0 else None


def _without_login(url: str) -> str:
    """Remove user name and token from an http(s) URL: others could read them in the task."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
