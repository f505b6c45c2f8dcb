"""A ClearML task in a process of its own, which may hang without delaying squeeze.

ClearML's SDK repeats each request to a silent server for minutes or without end, in threads that
Python waits for. So the SDK runs in `clearml_worker`, and squeeze kills that process when it has
waited long enough. The two processes share a temporary folder:

- squeeze appends requests to `requests.jsonl`, one JSON object per line;
- the worker writes `answer.json` for the requests that squeeze waits for;
- the worker touches `alive` whenever ClearML's servers respond.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError
from squeeze_cli.trackers.credentials import ENVIRONMENT, Credentials, find_credentials
from squeeze_cli.trackers.probe import probe

REQUESTS, ANSWER, ALIVE = "requests.jsonl", "answer.json", "alive"
SETTINGS = Path(__file__).parent / "clearml_settings"  # a user's clearml.conf overrides them
SILENCE_SECONDS = 8.0  # without a response until the server counts as gone, while squeeze waits
START_SECONDS = 60.0  # for starting a task, responses or not
LOST_SECONDS = 10.0  # without a response during a training until a warning


class ClearMLUnavailableError(SqueezeError):
    """ClearML cannot be used for this run; the message gives the reason."""


def require_sdk() -> None:
    """Raise SqueezeError where ClearML's SDK is not installed: it comes with an extra of squeeze."""
    if find_spec("clearml") is None:
        raise SqueezeError(
            "ClearML is not installed: pip install 'squeeze-cli[clearml]', or leave --use-clearml out."
        )


def running_on_agent() -> bool:
    """Return whether a ClearML agent has started this process for a task of its queue."""
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
    if found.warning:
        reporter.warn(found.warning)
    if reason := probe(found):
        raise ClearMLUnavailableError(
            f"ClearML cannot be used: {reason} (credentials from {found.source}; "
            "`squeeze doctor` says more)"
        )
    return found


class ClearMLTask:
    """One task of ClearML, held by a child process.

    Args:
        reporter: Prints warnings; with its `verbose` the SDK's own messages go to stderr.
        credentials: None leaves them to the SDK's own configuration.
        offline: Record the task in a folder instead of sending it to a server.

    Attributes:
        id: The task's id, once it has begun.
        page: The address of the task's page.
        process: The child process.
    """

    id = ""
    page = ""

    def __init__(
        self, reporter: Reporter, credentials: Credentials | None, *, offline: bool = False
    ) -> None:
        self._reporter = reporter
        self._warned = False
        self._shared = tempfile.TemporaryDirectory(
            prefix="squeeze-clearml-", ignore_cleanup_errors=True
        )
        self._folder = Path(self._shared.name)
        self._requests = (self._folder / REQUESTS).open("ab", buffering=0)
        (self._folder / ALIVE).touch()
        urls = [f"{credentials.api_host}/debug.ping", credentials.files_host] if credentials else []
        output = 2 if reporter.verbose else subprocess.DEVNULL  # 2 is stderr
        self.process = subprocess.Popen(
            [sys.executable, "-m", "squeeze_cli.trackers.clearml_worker", self._folder, *urls],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(self._folder, credentials, offline),
            start_new_session=True,  # Ctrl-C is for squeeze alone
        )

    def start(self, **options: object) -> None:
        """Begin the task with these options of `clearml.Task.init`.

        Raises ClearMLUnavailableError where the task does not begin.
        """
        self.send("start", options=options)
        try:
            answer = self._wait_for_answer(START_SECONDS)
            if isinstance(answer, str):
                raise ClearMLUnavailableError(f"ClearML cannot be used: {answer}")
        except BaseException:
            self.stop()
            raise
        self.id, self.page = answer["task_id"], answer["page"]

    def send(self, request: str, **arguments: object) -> None:
        """Request a method of `Worker`, without waiting.

        One warning says that the server has stopped responding, or that the process has ended.
        """
        if self.process.poll() is not None:
            self._warn_once("ClearML's process has ended; the run goes on without it.")
        elif self.id and time.time() - self._last_response() > LOST_SECONDS:
            self._warn_once(
                "The ClearML server has stopped answering; the run goes on, and the server gets "
                "the rest if it comes back before the end."
            )
        try:
            self._requests.write(json.dumps({"do": request, **arguments}).encode() + b"\n")
        except OSError as error:
            self._warn_once(f"ClearML gets no more reports ({error.strerror}).")

    def call(self, method: str, **arguments: object) -> None:
        """Call a method of `clearml.Task`, or `report_...` of its logger, without waiting."""
        self.send("call", method=method, arguments=arguments)

    def set_parameters(self, values: Mapping[str, object]) -> None:
        """Set hyperparameters; a nested one is named `section/name`, others `experiment/name`."""
        flat: dict[str, object] = {}
        for name, content in values.items():
            if isinstance(content, Mapping):
                flat.update({f"{name}/{key}": value for key, value in content.items()})
            else:
                flat[f"experiment/{name}"] = content
        self.call("update_parameters", **flat)

    def finish(self, request: str, **arguments: object) -> dict[str, str] | str:
        """Send the last request, wait for its answer, and end the child.

        Waits while the servers respond, however long uploads take. A silence of `SILENCE_SECONDS`
        or Ctrl-C ends the waiting.

        Returns:
            The answer, or the reason why there is none.
        """
        try:
            self.send(request, **arguments)
            self._reporter.say("Waiting for ClearML to receive the rest; Ctrl-C ends the waiting.")
            return self._wait_for_answer()
        except KeyboardInterrupt:
            return "the waiting for its server was interrupted"
        finally:
            self.stop()

    def stop(self) -> None:
        """Kill the child, if it still runs, and delete the shared folder."""
        self.process.kill()
        self.process.wait()
        self._requests.close()
        self._shared.cleanup()

    def _wait_for_answer(self, limit: float = float("inf")) -> dict[str, str] | str:
        """Return the worker's answer, or the reason why there is none."""
        begin = time.time()
        file = self._folder / ANSWER
        while time.time() - max(begin, self._last_response()) < SILENCE_SECONDS:
            ended = self.process.poll() is not None
            if file.exists():
                answer: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
                file.unlink()
                return answer["error"] or answer
            if ended:
                return "its process has ended"
            if time.time() - begin > limit:
                return f"no task within {limit:.0f} seconds"
            time.sleep(0.05)
        return "its server was gone"

    def _last_response(self) -> float:
        return (self._folder / ALIVE).stat().st_mtime

    def _warn_once(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self._reporter.warn(text)


def _environment(folder: Path, credentials: Credentials | None, offline: bool) -> dict[str, str]:
    """Return the child's environment variables."""
    environment = {
        "CLEARML_CONFIG_PATH": str(SETTINGS),
        **os.environ,
        "CLEARML_OFFLINE_MODE": str(int(offline)),
        "TMPDIR": str(folder),  # the SDK leaves lock files there
        # The SDK must not take itself for one of the processes of a launcher such as torchrun.
        "CLEARML_FORCE_MASTER_NODE": "1",
    }
    environment.pop("TORCHELASTIC_RUN_ID", None)
    values = credentials.values() if credentials else {}
    return environment | {ENVIRONMENT[name]: value for name, value in values.items()}
