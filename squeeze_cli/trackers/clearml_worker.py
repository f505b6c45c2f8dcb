"""The process that runs ClearML's SDK, started by `clearml_task.ClearMLTask`.

It carries out the requests that squeeze appends to a file of the shared folder: each names a method
of `Worker`. The SDK may hang here as long as it likes: squeeze kills the process in the end.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from squeeze_cli.files import write_text_atomically
from squeeze_cli.trackers.clearml_task import ALIVE, ANSWER, REQUESTS
from squeeze_cli.trackers.probe import responds

ALIVE_SECONDS = 2.0  # between two looks at the servers
RESPONSE_SECONDS = 3.0  # the longest wait for a server, which may be busy with an upload
ORPHAN_SECONDS = 60.0  # for closing the task when squeeze itself is gone
ANSWERED = ("start", "enqueue", "close")  # requests that squeeze waits for


class Worker:
    """Carries out requests with `clearml.Task`, one after the other.

    Args:
        folder: The folder that is shared with squeeze.
        urls: Pages of the API server and the file server that respond while those run; none offline
            and, before the task has begun, on an agent.
    """

    def __init__(self, folder: Path, urls: Sequence[str]) -> None:
        self.folder = folder
        self.urls = list(urls)
        self.error = ""  # the first one of a request without an answer
        self._task: Any = None

    def run(self) -> None:
        """Carry out requests until squeeze is gone, then end its task in a limited time."""
        for request in self.requests():
            name = request.pop("do")
            answer = None
            try:
                answer = getattr(self, name)(**request)
            except Exception as error:  # noqa: BLE001 - the SDK raises errors of any kind
                text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                self.error = self.error or text
            if name in ANSWERED:
                content = json.dumps({**(answer or {}), "error": self.error})
                write_text_atomically(self.folder / ANSWER, content)
        threading.Timer(ORPHAN_SECONDS, psutil.Process().kill).start()
        if self._task is not None:
            self.close("failed", archive="")
        shutil.rmtree(self.folder, ignore_errors=True)
        psutil.Process().kill()

    def requests(self) -> Iterator[dict[str, Any]]:
        """Yield requests as they arrive, until squeeze is gone."""
        squeeze = psutil.Process().parent()
        line = ""
        with (self.folder / REQUESTS).open(encoding="utf-8") as file:
            while True:
                line += file.readline()
                if line.endswith("\n"):
                    yield json.loads(line)
                    line = ""
                elif psutil.Process().parent() != squeeze:
                    return
                else:
                    time.sleep(0.1)

    def tell_alive(self) -> None:
        """Touch the file `alive` every few seconds if the servers respond."""
        while True:
            if all(responds(url, RESPONSE_SECONDS) for url in self.urls):
                (self.folder / ALIVE).touch()
            time.sleep(ALIVE_SECONDS)

    def start(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Begin a task, or go on with an earlier one; return its id and page."""
        from clearml import Task
        from clearml.backend_api import Session

        self._task = task = Task.init(
            reuse_last_task_id=False,
            auto_connect_arg_parser=False,
            auto_connect_frameworks={"detect_repository": False},
            auto_connect_streams=False,
            **options,
        )
        if not Task.is_offline():
            if not task.output_uri:
                task.output_uri = True  # checkpoints are uploaded to the server's own file store
            urls = (f"{Session.get_api_server_host()}/debug.ping", Session.get_files_server_host())
            self.urls = [url for url in urls if url.startswith("http")]  # others are not asked
        return self._identity()

    def create(self, project_name: str, task_name: str) -> None:
        """Create a task that an agent will run."""
        from clearml import Task

        self._task = Task.create(project_name, task_name, detect_repository=False)

    def enqueue(self, queue_name: str) -> dict[str, str]:
        """Put the created task on a queue; return its id and page."""
        self._task.enqueue(self._task, queue_name=queue_name)
        return self._identity()

    def call(self, method: str, arguments: Mapping[str, Any]) -> None:
        """Call a method of `clearml.Task`, or `report_...` of its logger."""
        target = self._task.get_logger() if method.startswith("report_") else self._task
        getattr(target, method)(**arguments)

    def model(self, name: str, path: str, design: Mapping[str, object]) -> None:
        """Upload a checkpoint and register it as a model of the task."""
        from clearml import OutputModel

        model = OutputModel(self._task, name=name, framework="PyTorch", config_dict=dict(design))
        model.update_weights(path, target_filename=Path(path).name, auto_delete_file=False)

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

    def _identity(self) -> dict[str, str]:
        return {"task_id": self._task.id, "page": self._task.get_output_log_web_page()}


def main() -> None:
    """Run the worker with the shared folder and the URLs of the command line."""
    worker = Worker(Path(sys.argv[1]), sys.argv[2:])
    threading.Thread(target=worker.tell_alive, daemon=True).start()
    worker.run()


if __name__ == "__main__":
    main()
