"""`--remote-queue`: run the same command on another machine, through a ClearML agent's queue.

The agent clones the repository that squeeze runs from at its present commit, applies the changes
that are not committed yet, installs the recorded requirement, and runs `python -m squeeze_cli` with
the same arguments. Where squeeze is an installed package, the agent installs the same version.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import squeeze_cli
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError
from squeeze_cli.trackers.clearml_task import (
    ClearMLTask,
    ClearMLUnavailableError,
    usable_credentials,
)

_REQUIREMENT = "squeeze-cli[clearml]"


@dataclass(frozen=True)
class Source:
    """The place where an agent gets squeeze; `repository` is empty for an installed package."""

    requirement: str
    repository: str = ""
    branch: str = ""
    commit: str = ""
    diff: str = ""


def send_to_queue(
    config: ExperimentConfig, queue: str, arguments: Sequence[str], reporter: Reporter
) -> dict[str, str]:
    """Put this command on a ClearML queue; return the task's id, page, queue and command.

    Raises SqueezeError where ClearML cannot be used, or has no such queue.
    """
    options = config.logger
    name = options.task_name or config.name or "squeeze"
    command = remote_command(arguments)
    try:
        credentials = usable_credentials(config, reporter)
        source = find_source(reporter)
        task = ClearMLTask(reporter, credentials)
        task.start(
            "create", project_name=options.project_name, task_name=name, detect_repository=False
        )
        task.call("add_tags", tags=list(options.clearml_tags))
        task.call("set_parameters_as_dict", dictionary=config.model_dump(mode="json"))
        record_source(task, source, command)
        task.finish("call", method="enqueue", arguments={"task": task.id, "queue_name": queue})
    except ClearMLUnavailableError as error:
        raise SqueezeError(
            f"{error}. --remote-queue needs a ClearML server where the queue {queue!r} exists and an "
            "agent serves it."
        ) from None
    return {"task_id": task.id, "page": task.page, "queue": queue, "command": command}


def remote_command(arguments: Sequence[str]) -> str:
    """Return the arguments for the agent: without local flags, always with `--use-clearml`."""
    local = ArgumentParser(add_help=False, allow_abbrev=False)
    local.add_argument("--remote-queue", "--remote_queue")
    local.add_argument("--credentials", "--credentials-file", "--credentials_file")
    _, kept = local.parse_known_args(arguments)
    if not {"--use-clearml", "--use_clearml"} & set(kept):
        kept.append("--use-clearml")
    return shlex.join(kept)


def find_source(reporter: Reporter) -> Source:
    """Return the present source of squeeze for an agent, which must be able to clone it.

    Raises SqueezeError where it cannot; a commit that is not pushed is a warning.
    """
    source = present_source()
    if source.commit and not source.repository:
        raise SqueezeError(
            "--remote-queue: this checkout has no remote 'origin' that an agent could clone: "
            "`git remote add origin URL` and push."
        )
    folder = Path(squeeze_cli.__file__).parent
    if source.commit and not run_git(folder, "branch", "--remotes", "--contains", source.commit):
        commit = source.commit[:12]
        reporter.warn(f"The commit {commit} is on no remote branch: push it for the agent.")
    return source


def present_source() -> Source:
    """Return the checkout that squeeze runs from, or the package that it is."""
    folder = Path(squeeze_cli.__file__).resolve().parent
    package = f"{_REQUIREMENT}=={squeeze_cli.__version__}"
    if run_git(folder, "rev-parse", "--show-toplevel").strip() != str(folder.parent):
        return Source(package)
    # User name and token are removed: others could read them in the task.
    origin = run_git(folder, "remote", "get-url", "origin").strip()
    repository = re.sub(r"^(https?://)[^/]*@", r"\1", origin)
    commit = run_git(folder, "rev-parse", "HEAD").strip()
    # pip wants `git@host:path` as a URL.
    url = re.sub(r"^([\w.-]+@[\w.-]+):(?!/)", r"ssh://\1/", repository)
    return Source(
        requirement=f"{_REQUIREMENT} @ git+{url}@{commit}" if url else package,
        repository=repository,
        branch=run_git(folder, "rev-parse", "--abbrev-ref", "HEAD").strip(),
        commit=commit,
        diff=run_git(folder, "diff", "HEAD", ":/"),
    )


def record_source(
    task: ClearMLTask, source: Source, command: str, packages: Sequence[str] = ()
) -> None:
    """Record in a task what an agent needs to run `squeeze COMMAND`."""
    script = {name: value for name, value in vars(source).items() if name != "requirement"}
    entry_point = f"-m squeeze_cli {command}"
    task.call("set_script", **script, working_dir=".", entry_point=entry_point)
    task.call("set_packages", packages=[source.requirement, *packages])


def run_git(folder: Path, *arguments: str) -> str:
    """Return the output of git in `folder`; an empty text where it fails or is not installed."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
