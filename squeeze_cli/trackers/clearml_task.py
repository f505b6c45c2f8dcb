"""The beginning of a ClearML task: credentials, probe, and the SDK made ready."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError
from squeeze_cli.files import write_text_atomically
from squeeze_cli.runs import RunFolder
from squeeze_cli.trackers.clearml_session import (
    Patience,
    configure_sdk,
    detach_from_process,
    install_session,
)
from squeeze_cli.trackers.credentials import FoundCredentials, find_credentials
from squeeze_cli.trackers.probe import probe, responds

STATE_FILE = "clearml.json"


class ClearMLUnavailableError(SqueezeError):
    """There is no ClearML for this run; the message says why and what mends it."""


@dataclass
class ClearMLSession:
    """A started task, and what bounds it.

    Attributes:
        task: the `clearml.Task`.
        patience: bounds every request.
        hosts: addresses of the API server and of the file server; empty offline.
    """

    task: Any
    patience: Patience
    hosts: tuple[str, ...]

    @property
    def files_host(self) -> str | None:
        """Where uploads go; None leaves it to the SDK."""
        return self.hosts[1] if self.hosts else None

    def is_answered(self, seconds: float) -> bool:
        """Whether each server answers within `seconds`; offline there is none that could not."""
        urls = [f"{self.hosts[0]}/debug.ping", self.hosts[1]] if self.hosts else []
        return all(responds(url, seconds) for url in urls if url.startswith("http"))  # or s3://


def running_on_agent() -> bool:
    """Whether a ClearML agent has started this process for a task of its queue."""
    return bool(os.environ.get("CLEARML_TASK_ID"))


def usable_credentials(config: ExperimentConfig, reporter: Reporter) -> FoundCredentials:
    """Credentials that the server takes; ClearMLUnavailableError says why there are none."""
    given = config.logger.credentials_file
    try:
        found = find_credentials(Path(given).expanduser() if given else None)
    except SqueezeError as error:
        raise ClearMLUnavailableError(str(error)) from None
    for warning in found.warnings:
        reporter.warn(warning)
    reason = probe(found.credentials)
    if reason is not None:
        raise ClearMLUnavailableError(
            f"ClearML cannot be used: {reason} (credentials from {found.source}; "
            "`squeeze doctor` says more)"
        )
    return found


def start_task(
    config: ExperimentConfig, run: RunFolder | None, reporter: Reporter, *, detect: bool = True
) -> ClearMLSession:
    """Start the task of a run (or of none yet), or take up that of a resumed run.

    Raises ClearMLUnavailableError where the server cannot be used.
    """
    patience = Patience()
    found = None
    if not config.logger.clearml_offline and not running_on_agent():
        found = usable_credentials(config, reporter)
    try:
        with sdk_messages(reporter):
            hosts = _prepare_sdk(config, found, patience)
            task = _init(config, run, detect)
            detach_from_process(task)
    except Exception as error:  # noqa: BLE001 - the SDK raises what it likes; the run goes on
        silent = patience.lost_seconds > 0
        patience.end()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if silent:
            reason = f"its server stopped answering ({patience.reason})"
        raise ClearMLUnavailableError(f"ClearML cannot be used: {reason}") from None
    session = ClearMLSession(task, patience, hosts)
    if run is not None:
        _write_state(run, session)
    where = "into an archive, offline" if config.logger.clearml_offline else _page(task)
    reporter.say(f"ClearML task {task.id}: {where}")
    return session


def _prepare_sdk(
    config: ExperimentConfig, found: FoundCredentials | None, patience: Patience
) -> tuple[str, ...]:
    """The hosts of the session that is made; none offline."""
    from clearml import Task

    Task.set_offline(config.logger.clearml_offline)
    if config.logger.clearml_offline:
        configure_sdk()
        return ()
    return install_session(found.credentials if found else None, patience)


def _init(config: ExperimentConfig, run: RunFolder | None, detect: bool) -> Any:
    """`Task.init`, without what would change the run or what our logger does itself."""
    from clearml import Task

    options = config.logger
    frameworks: Any = False
    if options.auto_connect_frameworks or not detect:
        # Our logger reports TensorBoard's scalars under the same names: not twice.
        frameworks = {"tensorboard": False, "detect_repository": detect}
    earlier = _read_state(run) if run is not None else None
    task = Task.init(
        project_name=options.project_name,
        task_name=options.task_name or (run.name if run else config.name) or "squeeze",
        tags=list(options.clearml_tags) or None,
        reuse_last_task_id=False,
        continue_last_task=earlier if earlier and not options.clearml_offline else False,
        auto_connect_arg_parser=False,
        auto_connect_frameworks=frameworks,
        auto_connect_streams={"stdout": False, "stderr": True, "logging": False},
    )
    task.set_initial_iteration(0)
    return task


def _page(task: Any) -> str:
    return str(task.get_output_log_web_page())


def _write_state(run: RunFolder, session: ClearMLSession) -> None:
    state = {"task_id": session.task.id, "page": _page(session.task) if session.hosts else None}
    write_text_atomically(run.path / STATE_FILE, json.dumps(state, indent=2) + "\n")


def _read_state(run: RunFolder) -> str | None:
    """The task of a resumed run, if it was on a server."""
    try:
        state = json.loads((run.path / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(state["task_id"]) if isinstance(state, dict) and state.get("page") else None


@contextmanager
def sdk_messages(reporter: Reporter) -> Iterator[None]:
    """The SDK prints to stdout, which is for data: to stderr with --verbose, else nowhere."""
    os.environ.setdefault("CLEARML_LOG_LEVEL", "INFO" if reporter.verbose else "CRITICAL")
    with redirect_stdout(sys.stderr if reporter.verbose else io.StringIO()):
        yield
