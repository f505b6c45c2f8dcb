"""ClearML task in a separate process, which may hang without delaying squeeze.

ClearML's SDK repeats each request to a silent server for minutes or without end, in threads that
Python waits for. So the SDK runs in a child process, which squeeze kills after a time limit. Both
processes share a temporary folder. `ClearMLTask` appends method calls to a file, for `Worker` or for
the SDK's task. `Worker` touches a second file whenever the servers respond, and answers in a third.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError, one_line
from squeeze_cli.files import write_atomically
from squeeze_cli.trackers.credentials import (
    ENVIRONMENT,
    ClearMLUnavailableError,
    Credentials,
    find_credentials,
    probe,
    responds,
)

AGENT_TASK = "CLEARML_TASK_ID"  # environment variable that a ClearML agent sets
REQUESTS, ANSWER, ALIVE = "requests.jsonl", "answer.json", "alive"
SETTINGS = Path(__file__).parent / "clearml_settings"  # a user's clearml.conf overrides them
SILENCE_SECONDS = 8.0  # squeeze stops waiting for a server that is silent for so long
START_SECONDS = 60.0  # limit for starting a task, even if the server responds
LOST_SECONDS = 10.0  # in a training, squeeze warns of a server that is silent for so long


def usable_credentials(config: ExperimentConfig, reporter: Reporter) -> Credentials | None:
    """Return credentials that the server accepts; None if offline, and on an agent, which has its own."""
    if find_spec("clearml") is None:
        raise SqueezeError(
            "ClearML is not installed: pip install 'squeeze-cli[clearml]', or leave --use-clearml out."
        )
    if config.logger.clearml_offline or AGENT_TASK in os.environ:
        return None
    given = config.logger.credentials_file
    found = find_credentials(Path(given).expanduser() if given else None)
    if found.warning:
        reporter.warn(found.warning)
    if reason := probe(found):
        place = f"credentials from {found.source}; `squeeze doctor` says more"
        raise ClearMLUnavailableError(f"ClearML cannot be used: {reason} ({place})")
    return found


class ClearMLTask:
    """A task of ClearML in the child process `process`; `id` and `page` are empty until it is started.

    Without `credentials` the SDK uses its own configuration. `offline` records the task in a folder
    instead of sending it to a server. With `reporter.verbose` the SDK's messages go to stderr.
    """

    def __init__(
        self, reporter: Reporter, credentials: Credentials | None, *, offline: bool = False
    ) -> None:
        self.id = self.page = ""
        self.reporter = reporter
        self._warned = False
        self._folder = Path(tempfile.mkdtemp(prefix="squeeze-clearml-"))
        self._alive = self._folder / ALIVE
        self._alive.touch()
        self._requests = (self._folder / REQUESTS).open("ab", buffering=0)
        output = 2 if reporter.verbose else subprocess.DEVNULL  # 2 is stderr
        environment = {
            "CLEARML_CONFIG_PATH": str(SETTINGS),
            **os.environ,
            **(credentials.environment() if credentials else {}),
            "CLEARML_OFFLINE_MODE": str(int(offline)),
            "TMPDIR": str(self._folder),  # the SDK leaves lock files there
            # Else the SDK may take its process for one of several of a launcher such as torchrun.
            "CLEARML_FORCE_MASTER_NODE": "1",
        }
        environment.pop("TORCHELASTIC_RUN_ID", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "squeeze_cli.trackers.clearml_task", self._folder],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
            start_new_session=True,  # Ctrl-C is for squeeze alone
        )  # fmt: skip

    def start(self, method: str, **options: object) -> None:
        """Make the task by `clearml.Task.init` or `create`; ClearMLUnavailableError if this fails."""
        try:
            self._ask(START_SECONDS, "start", method=method, options=options)
        except ClearMLUnavailableError as error:
            raise ClearMLUnavailableError(f"ClearML cannot be used: {error}") from None
        finally:
            if not self.id:
                self.stop()

    def call(self, method: str, /, **arguments: object) -> None:
        """Call a method of `clearml.Task`, or `report_...` of its logger, without waiting; warn once."""
        problem = ""
        try:
            self._requests.write(json.dumps([method, arguments]).encode() + b"\n")
            if self.process.poll() is not None:
                problem = "ClearML's process has ended; the run goes on without it."
            elif self.id and time.time() - self._alive.stat().st_mtime > LOST_SECONDS:
                problem = (
                    "The ClearML server has stopped answering; the run goes on, and the server gets "
                    "the rest if it comes back before the end."
                )
        except OSError as error:
            problem = f"ClearML receives no more reports ({error.strerror})."
        if problem and not self._warned:
            self._warned = True
            self.reporter.warn(problem)

    def finish(self, method: str, /, **arguments: object) -> None:
        """Make the last call and end the child; ClearMLUnavailableError if not all calls succeeded."""
        try:
            self.reporter.say("Waiting for ClearML to receive the rest; Ctrl-C ends the waiting.")
            self._ask(float("inf"), method, **arguments)
        except KeyboardInterrupt:
            raise ClearMLUnavailableError("the waiting for its server was interrupted") from None
        finally:
            self.stop()

    def stop(self) -> None:
        """Kill the child if it still runs, and delete the shared folder."""
        self.process.kill()
        self.process.wait()
        self._requests.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, limit: float, method: str, /, **arguments: object) -> None:
        """Make a call and wait until it is done, for at most `limit` seconds."""
        self.call(method, **arguments)
        self.call("answer")
        begin = time.time()
        answer = self._folder / ANSWER
        while not answer.exists():
            if self.process.poll() is not None:
                raise ClearMLUnavailableError("its process has ended")
            if time.time() - max(begin, self._alive.stat().st_mtime) > SILENCE_SECONDS:
                raise ClearMLUnavailableError("its server was gone")
            if time.time() - begin > limit:
                raise ClearMLUnavailableError(f"no task within {limit:.0f} seconds")
            time.sleep(0.05)
        self.id, self.page, error = json.loads(answer.read_text(encoding="utf-8"))
        answer.unlink()
        if error:
            raise ClearMLUnavailableError(error)


class Worker:
    """Loop of the child process, which executes requests by ClearML's SDK one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Pages that respond while the servers run; set now, because importing the SDK may wait for them.
        api, files = (os.environ.get(ENVIRONMENT[name], "") for name in ("api_host", "files_host"))
        online = api and files and os.environ["CLEARML_OFFLINE_MODE"] == "0"
        self.urls = [f"{api}/debug.ping", files] if online else []
        self.error = ""  # of the first request that failed
        self.task: Any = None
        self.identity = ("", "")  # the task's id and page

    def run(self) -> None:
        """Execute requests until squeeze has ended, then close its task within a time limit."""
        threading.Thread(target=self.tell_alive, daemon=True).start()
        for method, arguments in self.requests():
            try:
                target = self if hasattr(self, method) else self.task
                if method.startswith("report_"):
                    target = self.task.get_logger()
                getattr(target, method)(**arguments)
            except Exception as error:  # noqa: BLE001 - the SDK raises errors of any kind
                text = one_line(f"{type(error).__name__}: {error}")
                self.error = self.error or text
        threading.Timer(60, psutil.Process().kill).start()
        if self.task is not None:
            self.close("failed")
        shutil.rmtree(self.folder, ignore_errors=True)
        psutil.Process().kill()

    def requests(self) -> Iterator[tuple[str, dict[str, object]]]:
        """Yield requests as they arrive, until squeeze has ended."""
        squeeze = psutil.Process().parent()
        line = ""
        with (self.folder / REQUESTS).open(encoding="utf-8") as file:
            while True:
                line += file.readline()
                if line.endswith("\n"):
                    yield json.loads(line)
                    line = ""
                elif psutil.Process().parent() == squeeze:
                    time.sleep(0.1)
                else:
                    return

    def tell_alive(self) -> None:
        """Touch the file `alive` every few seconds while the servers respond."""
        while True:
            if all(responds(url) for url in self.urls):
                (self.folder / ALIVE).touch()
            time.sleep(2)

    def start(self, method: str, options: Mapping[str, object]) -> None:
        """Make a task by `clearml.Task.init`, which may continue an earlier one, or by `create`."""
        from clearml import Task
        from clearml.backend_api import Session

        if not Task.is_offline():
            urls = (f"{Session.get_api_server_host()}/debug.ping", Session.get_files_server_host())
            self.urls = [url for url in urls if url.startswith("http")]  # not s3:// and such
        self.task = getattr(Task, method)(**options)
        self.identity = (self.task.id, self.task.get_output_log_web_page())

    def upload_model(self, name: str, path: str, design: dict[str, object]) -> None:
        """Upload a checkpoint and register it as a model of the task."""
        from clearml import OutputModel

        if not self.task.output_uri:
            self.task.output_uri = True  # the server's own file store
        model = OutputModel(self.task, name=name, framework="PyTorch", config_dict=design)
        model.update_weights(path, target_filename=Path(path).name, auto_delete_file=False)

    def close(self, status: str, archive: str = "") -> None:
        """Send the remaining reports and end the task; an offline session is moved to `archive`."""
        folder = self.task.get_offline_mode_folder() if self.task.is_offline() else None
        self.task.close()  # marks the task as completed, also after a failure
        if folder is not None:
            shutil.move(f"{folder}.zip", archive)
            shutil.rmtree(folder, ignore_errors=True)
        elif status != "finished":
            mark = self.task.mark_stopped if status == "interrupted" else self.task.mark_failed
            mark(force=True, status_message=f"squeeze: the run {status}")

    def answer(self) -> None:
        """Write the task's id and page, and the first error, for squeeze to read."""
        write_atomically(self.folder / ANSWER, json.dumps([*self.identity, self.error]))


if __name__ == "__main__":
    Worker(Path(sys.argv[1])).run()
