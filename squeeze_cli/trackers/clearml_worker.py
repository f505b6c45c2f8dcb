"""The process that runs ClearML's SDK, started by `clearml_task.ClearMLTask`.

Each line on stdin is one JSON object: `{"do": NAME, ...}` with the arguments of the method NAME of
`Worker`. Each line on stdout is one answer, `{"event": NAME, ...}`:

- `alive`, every few seconds, says whether the servers answer;
- `started`, `closed`, `queued` and `failed` answer the requests of these kinds;
- `error` names a report that ClearML refused.

The SDK may hang here as long as it likes: squeeze kills the process when it has waited enough.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import psutil

from squeeze_cli.trackers.clearml_task import running_on_agent
from squeeze_cli.trackers.probe import responds

ALIVE_SECONDS = 3.0  # between two `alive` answers; a third of it once the task is being closed
ANSWER_SECONDS = 3.0  # the longest wait for a server, which may be busy with an upload
ORPHAN_SECONDS = 60.0  # for closing the task when squeeze itself is gone
# Requests whose failure is their answer, and those after which the process ends.
_ANSWERED = ("connect", "start", "enqueue", "close")
_LAST = ("enqueue", "close")


class Worker:
    """Carries out requests with `clearml.Task`, one after the other."""

    def __init__(self, answers: TextIO) -> None:
        self.answers = answers
        self.hosts: list[str] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._task: Any = None

    def answer(self, event: str, **content: object) -> None:
        """Write one answer for squeeze."""
        with self._lock, suppress(OSError):  # squeeze may have died
            print(json.dumps({"event": event, **content}), file=self.answers, flush=True)

    def run(self, requests: queue.Queue[dict[str, Any] | None]) -> None:
        """Carry out requests until one ends the process, or squeeze is gone (None)."""
        while (request := requests.get()) is not None:
            name = request.pop("do")
            try:
                getattr(self, name)(**request)
            except Exception as error:  # noqa: BLE001 - the SDK raises errors of any kind
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                self.answer("failed" if name in _ANSWERED else "error", reason=reason)
            if name in _LAST:
                return
        self._close_orphan()

    def connect(self, environment: Mapping[str, str], hosts: Sequence[str], offline: bool) -> None:
        """Give the SDK its credentials and mode; it reads the environment when it is imported."""
        os.environ.update(environment)
        self.hosts[:] = hosts
        from clearml import Task

        Task.set_offline(offline)

    def start(self, source: Mapping[str, Any] | None, **options: object) -> None:
        """Begin a task, or go on with an earlier one.

        Args:
            source: the task's `script` and `packages`; None records neither, nor the machine's
                load.
            options: further arguments of `Task.init`.
        """
        from clearml import Task

        self._task = task = Task.init(
            reuse_last_task_id=False,
            auto_connect_arg_parser=False,
            auto_connect_frameworks={"detect_repository": False},
            auto_connect_streams=False,
            # The memory that this process uses would say nothing about the training.
            auto_resource_monitoring={"report_global_mem_used": True} if source else False,
            **options,
        )
        task.set_initial_iteration(0)
        if source and not running_on_agent():
            self._record_source(task, source)
        if not Task.is_offline():
            if not task.output_uri:
                task.output_uri = True  # checkpoints are uploaded to the server's own file store
            self._find_hosts()
        self.answer("started", task_id=str(task.id), page=str(task.get_output_log_web_page()))

    def parameters(self, values: Mapping[str, object]) -> None:
        """Set hyperparameters, named `section/name`."""
        self._task.update_parameters(values)

    def task(self, method: str, arguments: Mapping[str, Any]) -> None:
        """Call a method of `clearml.Task`."""
        getattr(self._task, method)(**arguments)

    def logger(self, method: str, arguments: Mapping[str, Any]) -> None:
        """Call a method of `clearml.Logger`."""
        getattr(self._task.get_logger(), method)(**arguments)

    def model(self, name: str, path: str, design: Mapping[str, object]) -> None:
        """Upload a checkpoint and register it as a model of the task.

        Offline it becomes an artifact: the SDK would only note its path on this machine.
        """
        from clearml import OutputModel

        file = Path(path).name
        if self._task.is_offline():
            self._task.upload_artifact(f"checkpoints/{file}", path, auto_pickle=False)
            return
        model = OutputModel(
            task=self._task, name=name, framework="PyTorch", config_dict=dict(design)
        )
        model.update_weights(path, target_filename=file, auto_delete_file=False)

    def close(self, status: str, archive: str) -> None:
        """Send all that is left and end the task; offline, move its session to `archive`."""
        task = self._task
        folder = task.get_offline_mode_folder() if task.is_offline() else None
        task.close()  # marks the task as completed, whatever happened
        if folder is not None:
            shutil.move(f"{folder}.zip", archive)
            shutil.rmtree(folder, ignore_errors=True)
        elif status != "finished":
            mark = task.mark_stopped if status == "interrupted" else task.mark_failed
            mark(force=True, status_message=f"squeeze: the run {status}")
        self.answer("closed")

    def enqueue(
        self,
        queue_name: str,
        project_name: str,
        task_name: str,
        tags: Sequence[str],
        parameters: Mapping[str, object],
        source: Mapping[str, Any],
    ) -> None:
        """Create a task for an agent and put it on a queue."""
        from clearml import Task

        task = Task.create(project_name, task_name, detect_repository=False)
        task.add_tags(list(tags))
        task.update_parameters(parameters)
        self._record_source(task, source)
        Task.enqueue(task, queue_name=queue_name)
        self.answer("queued", task_id=str(task.id), page=str(task.get_output_log_web_page()))

    @staticmethod
    def _record_source(task: Any, source: Mapping[str, Any]) -> None:
        task.set_script(**source["script"])
        task.set_packages(source["packages"])

    def _find_hosts(self) -> None:
        """Learn the addresses that the SDK uses, which an agent's configuration decides."""
        from clearml.backend_api import Session

        self.hosts[:] = [Session.get_api_server_host(), Session.get_files_server_host()]

    def _close_orphan(self) -> None:
        """End the task of a squeeze that has died, for a limited time."""
        if self._task is not None:
            end = threading.Timer(ORPHAN_SECONDS, psutil.Process().kill)
            end.daemon = True
            end.start()
            self.close("failed", archive="")


def servers_answer(hosts: Sequence[str]) -> bool:
    """Whether the API server and the file server answer; other file stores are not asked."""
    urls = [f"{host}/debug.ping" if i == 0 else host for i, host in enumerate(hosts)]
    return all(responds(url, ANSWER_SECONDS) for url in urls if url.startswith("http"))


def tell_alive(worker: Worker) -> None:
    """Answer `alive` every few seconds."""
    while True:
        worker.answer("alive", answered=servers_answer(worker.hosts))
        if worker.closing.wait(ALIVE_SECONDS):
            time.sleep(ALIVE_SECONDS / 3)


def read_requests(worker: Worker, requests: queue.Queue[dict[str, Any] | None]) -> None:
    """Read requests from stdin until one says `end`, or squeeze is gone."""
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "end":
            break
        if request["do"] == "close":
            worker.closing.set()
        requests.put(request)
    requests.put(None)


def main() -> None:
    """Run the worker on this process's stdin and stdout."""
    worker = Worker(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the SDK prints to stdout
    requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
    reader = threading.Thread(target=read_requests, args=(worker, requests), daemon=True)
    reader.start()
    threading.Thread(target=tell_alive, args=(worker,), daemon=True).start()
    worker.run(requests)
    reader.join()  # squeeze says `end` once it has the last answer


if __name__ == "__main__":
    main()
