"""A ClearML task in a process of its own, which may hang without holding squeeze up.

ClearML's SDK repeats each request to a silent server for minutes or without end, in threads that
Python waits for. So the SDK runs in `clearml_worker`; squeeze sends it requests without waiting,
hears every few seconds whether the servers answer, and kills the process when it has waited enough.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError
from squeeze_cli.trackers.credentials import ENVIRONMENT, Credentials, find_credentials
from squeeze_cli.trackers.probe import probe

SILENCE_SECONDS = 6.0  # without an answer until the server counts as gone, while squeeze waits
START_SILENCE_SECONDS = 12.0  # the same while the process starts
START_SECONDS = 60.0  # for starting a task, answers or not
LOST_SECONDS = 10.0  # without an answer during a training until a warning
FAREWELL_SECONDS = 2.0  # for the process to end by itself
PATIENT_SECONDS = 5.0  # of waiting until a message explains it
MAX_WAITING = 10_000  # requests not yet taken by the process
# Settings of the SDK; those in a user's clearml.conf count more.
_SETTINGS = {
    "api.conf": "http { retries { backoff_max: 5.0 } }\n",
    "sdk.conf": "development { report_use_subprocess: false, suppress_update_message: true }\n",
}


class ClearMLUnavailableError(SqueezeError):
    """ClearML cannot be used for this run; the message says why."""


def require_sdk() -> None:
    """Raise SqueezeError where ClearML's SDK is not installed: it comes with an extra of squeeze."""
    if find_spec("clearml") is None:
        raise SqueezeError(
            "ClearML is not installed: pip install 'squeeze-cli[clearml]', or leave --use-clearml out."
        )


def running_on_agent() -> bool:
    """Whether a ClearML agent has started this process for a task of its queue."""
    return bool(os.environ.get("CLEARML_TASK_ID"))


def usable_credentials(config: ExperimentConfig, reporter: Reporter) -> Credentials | None:
    """Return credentials that the server accepts; None on a ClearML agent, which has its own.

    Raises ClearMLUnavailableError where there are none.
    """
    if running_on_agent():
        return None
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
    return found.credentials


def flat_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Name nested values `section/name`, and the others `experiment/name`."""
    flat: dict[str, Any] = {}
    for name, content in values.items():
        if isinstance(content, Mapping):
            flat.update({f"{name}/{key}": value for key, value in content.items()})
        else:
            flat[f"experiment/{name}"] = content
    return flat


class ClearMLTask:
    """One task of ClearML, reached through a child process.

    Args:
        reporter: for warnings; with its `verbose` the SDK's own messages go to stderr.
    """

    id = ""
    page = ""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._warned = False
        self._answered = time.monotonic()
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._requests: queue.Queue[dict[str, object]] = queue.Queue(MAX_WAITING)
        self.error = ""
        self._folder = tempfile.TemporaryDirectory(
            prefix="squeeze-clearml-", ignore_cleanup_errors=True
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "squeeze_cli.trackers.clearml_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if reporter.verbose else subprocess.DEVNULL,
            env=_environment(Path(self._folder.name), reporter.verbose),
            start_new_session=True,  # Ctrl-C is for squeeze alone
            text=True,
            encoding="utf-8",
        )
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._write, self._read)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def process_id(self) -> int:
        """The child's process id."""
        return self._process.pid

    def connect(self, credentials: Credentials | None, offline: bool) -> None:
        """Give the SDK its credentials; None leaves them to its own configuration."""
        values = {} if credentials is None else vars(credentials)
        self.send(
            "connect",
            environment={ENVIRONMENT[name]: value for name, value in values.items()},
            hosts=[values[name] for name in ("api_host", "files_host")] if values else [],
            offline=offline,
        )

    def start(self, **options: object) -> None:
        """Begin the task with these options of `Worker.start`, and wait for its id and page.

        Raises ClearMLUnavailableError where the task does not begin.
        """
        try:
            self.send("start", **options)
            answer = self._await("started", START_SECONDS)
        except BaseException:
            self.stop()
            raise
        if isinstance(answer, str):
            self.stop()
            raise ClearMLUnavailableError(f"ClearML cannot be used: {answer}")
        self.id, self.page = answer["task_id"], answer["page"]

    def send(self, request: str, **arguments: object) -> None:
        """Queue a request for the child, without waiting.

        One warning tells that the server has stopped answering, or that the child has ended.
        """
        lost = time.monotonic() - self._answered > LOST_SECONDS
        if self._process.poll() is not None:
            self._warn_once("ClearML's process has ended; the run goes on without it.")
            return
        if lost and self.id:
            self._warn_once(
                "The ClearML server has stopped answering; the run goes on, and the server gets "
                "the rest if it comes back before the end."
            )
        try:
            self._requests.put_nowait({"do": request, **arguments})
        except queue.Full:
            self._warn_once("ClearML's process hangs; the run goes on without it.")

    def call(self, method: str, **arguments: object) -> None:
        """Call a method of `clearml.Task` in the child, without waiting."""
        self.send("task", method=method, arguments=arguments)

    def log(self, method: str, **arguments: object) -> None:
        """Call a method of `clearml.Logger` in the child, without waiting."""
        self.send("logger", method=method, arguments=arguments)

    def finish(self, request: str, expected: str, **arguments: object) -> dict[str, Any] | str:
        """Send the last request, wait for its answer, and end the child.

        Waits while the servers answer, however long uploads take. A silence of `SILENCE_SECONDS`
        or Ctrl-C ends the waiting.

        Returns:
            The answer, or the reason why there is none.
        """
        try:
            self.send(request, **arguments)
            answer = self._await(expected)
            if not isinstance(answer, str):
                self._end_requests()
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(FAREWELL_SECONDS)
        except KeyboardInterrupt:
            answer = "the waiting for its server was interrupted"
        self.stop()
        return self.error or answer

    def stop(self) -> None:
        """Kill the child, if it still runs, and free what belongs to it."""
        self._process.kill()
        self._process.wait()
        self._end_requests()
        for thread in self._threads:
            thread.join(FAREWELL_SECONDS)
        self._folder.cleanup()

    def _await(self, expected: str, limit: float = float("inf")) -> dict[str, Any] | str:
        """Return the answer `expected`, or the reason why it does not come."""
        silence = SILENCE_SECONDS if self.id else START_SILENCE_SECONDS
        begin = self._answered = time.monotonic()
        said = False
        while time.monotonic() - self._answered < silence:
            with suppress(queue.Empty):
                answer = self._answers.get(timeout=0.1)
                if answer["event"] == expected:
                    return answer
                return str(answer["reason"])
            waited = time.monotonic() - begin
            if waited > limit:
                return f"no task within {limit:.0f} seconds"
            if self.id and not said and waited > PATIENT_SECONDS:
                said = True
                self._reporter.say(
                    "Waiting for ClearML to receive the rest; Ctrl-C ends the waiting."
                )
        return "its server was gone"

    def _warn_once(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self._reporter.warn(text)

    def _end_requests(self) -> None:
        with suppress(queue.Full):  # a full queue's writer ends when the child is killed
            self._requests.put_nowait({"do": "end"})

    def _write(self) -> None:
        """Hand requests to the child until one says `end`."""
        assert self._process.stdin is not None
        request: dict[str, object] = {}
        with suppress(OSError), self._process.stdin as stdin:
            while request.get("do") != "end":
                request = self._requests.get()
                stdin.write(json.dumps(request) + "\n")
                stdin.flush()

    def _read(self) -> None:
        """Take the child's answers until it ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if answer["event"] == "alive":
                if answer["answered"]:
                    self._answered = time.monotonic()
            elif answer["event"] == "error":
                self.error = self.error or str(answer["reason"])
            else:
                self._answers.put(answer)
        self._answers.put({"event": "failed", "reason": "its process has ended"})


def _environment(folder: Path, verbose: bool) -> dict[str, str]:
    """Write the SDK's settings to `folder` and return the child's environment variables."""
    (folder / "default").mkdir()
    for name, text in _SETTINGS.items():
        (folder / "default" / name).write_text(text, encoding="utf-8")
    defaults = {
        "CLEARML_CONFIG_PATH": str(folder),
        "CLEARML_LOG_LEVEL": "INFO" if verbose else "CRITICAL",
    }
    # The SDK leaves lock files in the temporary folder, and must not take itself for one of the
    # processes that a launcher such as torchrun started.
    forced = {"TMPDIR": str(folder), "CLEARML_FORCE_MASTER_NODE": "1"}
    environment = {**defaults, **os.environ, **forced}
    environment.pop("TORCHELASTIC_RUN_ID", None)
    return environment
