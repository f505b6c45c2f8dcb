"""The process that runs ClearML's SDK, against a real server: nothing holds squeeze up."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import psutil
import pytest

from squeeze_cli.console import Reporter
from squeeze_cli.trackers import clearml_task
from squeeze_cli.trackers.clearml_task import ClearMLTask
from squeeze_cli.trackers.credentials import ClearMLUnavailableError, Credentials
from squeeze_cli.trackers.loggers import ClearMLLogger
from tests.trackers.clearml_server import KEY, SECRET, ClearMLServer
from tests.trackers.dead_ends import refused, silent, trickling

OPTIONS = {"auto_resource_monitoring": False, "project_name": "P", "task_name": "T",
           "reuse_last_task_id": False, "auto_connect_arg_parser": False,
           "auto_connect_frameworks": False, "auto_connect_streams": False}  # fmt: skip


def connected(url: str) -> ClearMLTask:
    return ClearMLTask(Reporter(), Credentials(url, url, url, KEY, SECRET))


@pytest.fixture
def task(server: ClearMLServer) -> Iterator[ClearMLTask]:
    task = connected(server.url)
    task.start("init", **OPTIONS)
    yield task
    task.stop()


def scalar(task: ClearMLTask, value: float, step: int) -> None:
    task.call("report_scalar", title="val", series="loss", value=value, iteration=step)


def close(task: ClearMLTask, status: str = "finished") -> str:
    """The reason why not all has arrived, or nothing; the process has ended when it comes."""
    reason = ""
    try:
        task.finish("close", status=status, archive="")
    except ClearMLUnavailableError as error:
        reason = str(error)
    assert not psutil.pid_exists(task.process.pid)
    return reason


@pytest.mark.parametrize(
    ("status", "expected"),
    [("finished", "completed"), ("interrupted", "stopped"), ("failed", "failed")],
)
def test_all_arrives_and_the_task_ends_as_the_run_did(
    task: ClearMLTask, server: ClearMLServer, status: str, expected: str
) -> None:
    assert server.task["id"] == task.id
    assert server.url in task.page
    for step in range(30):
        scalar(task, step / 10, step)
    assert close(task, status) == ""
    assert server.scalars()["val/loss"] == [(step, step / 10) for step in range(30)]
    assert server.task["status"] == expected


def test_a_process_that_is_killed_is_reported_once(
    task: ClearMLTask, capsys: pytest.CaptureFixture[str]
) -> None:
    psutil.Process(task.process.pid).kill()
    for step in range(50):
        scalar(task, 0.0, step)
        time.sleep(0.02)
    start = time.monotonic()
    assert close(task) == "its process has ended"
    assert time.monotonic() - start < 3
    assert capsys.readouterr().err.count("process has ended") == 1


@pytest.mark.slow
def test_a_process_that_hangs_blocks_no_request(
    task: ClearMLTask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clearml_task, "LOST_SECONDS", 1.5)
    monkeypatch.setattr(clearml_task, "SILENCE_SECONDS", 3.0)
    os.kill(task.process.pid, signal.SIGSTOP)
    time.sleep(2)
    start = time.monotonic()
    for step in range(11_000):
        task.call("report_text", msg=f"{step} {'x' * 200}")
    assert time.monotonic() - start < 3
    assert close(task) == "its server was gone"
    assert time.monotonic() - start < 9
    assert capsys.readouterr().err.count("Warning") == 1


@pytest.mark.parametrize("dead_end", [refused, silent, trickling])
def test_a_task_that_cannot_start_is_given_up(
    dead_end: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clearml_task, "SILENCE_SECONDS", 2.0)
    with dead_end() as url:
        task = connected(url)
        start = time.monotonic()
        with pytest.raises(ClearMLUnavailableError, match="its server was gone"):
            task.start("init", **OPTIONS)
        assert time.monotonic() - start < 6
    assert not psutil.pid_exists(task.process.pid)


@pytest.mark.slow
def test_a_start_that_never_ends_is_given_up_though_the_server_answers(
    server: ClearMLServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clearml_task, "START_SECONDS", 3.0)
    monkeypatch.setattr(ClearMLServer, "tasks_create", lambda *_: time.sleep(1) or 1 / 0)
    with pytest.raises(ClearMLUnavailableError):
        connected(server.url).start("init", **OPTIONS)


@pytest.mark.parametrize("death", ["stop", "fall_silent"])
@pytest.mark.slow
def test_a_server_that_vanishes_is_reported_once_and_given_up_in_time(
    task: ClearMLTask,
    server: ClearMLServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    death: str,
) -> None:
    monkeypatch.setattr(clearml_task, "LOST_SECONDS", 1.5)
    monkeypatch.setattr(clearml_task, "SILENCE_SECONDS", 3.0)
    getattr(server, death)()
    for step in range(30):
        start = time.monotonic()
        scalar(task, 1.0, step)
        assert time.monotonic() - start < 0.5
        time.sleep(0.1)
    start = time.monotonic()
    assert close(task) == "its server was gone"
    assert time.monotonic() - start < 7
    assert capsys.readouterr().err.count("has stopped answering") == 1


@pytest.mark.slow
def test_reports_arrive_when_the_server_comes_back(
    task: ClearMLTask, server: ClearMLServer
) -> None:
    server.fall_silent()
    for step in range(20):
        scalar(task, 1.0, step)
        time.sleep(0.1)
    server.speaks.set()
    assert close(task) == ""
    assert len(server.scalars()["val/loss"]) == 20


@pytest.mark.slow
def test_a_slow_server_that_answers_is_waited_for(
    task: ClearMLTask,
    server: ClearMLServer,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(clearml_task, "SILENCE_SECONDS", 4.0)
    server.upload_seconds = 5.0  # more than the silence that ends the waiting
    (tmp_path / "file.bin").write_bytes(b"content")
    task.call("upload_artifact", name="a", artifact_object=str(tmp_path / "file.bin"))
    assert close(task) == ""
    assert b"content" in server.files.values()
    assert capsys.readouterr().err.count("Waiting for ClearML") == 1


def test_ctrl_c_ends_the_waiting_alone(task: ClearMLTask, server: ClearMLServer) -> None:
    server.fall_silent()
    threading.Timer(1.0, _thread.interrupt_main).start()
    start = time.monotonic()
    assert close(task) == "the waiting for its server was interrupted"
    assert time.monotonic() - start < 4


def test_a_refused_report_is_told_at_the_end(task: ClearMLTask, server: ClearMLServer) -> None:
    task.call("report_single_value", name="a", value="no number")
    scalar(task, 1.0, 0)
    assert "Error" in close(task)
    assert "val/loss" in server.scalars()
    assert server.task["status"] == "completed"


@pytest.mark.slow
def test_the_task_of_a_killed_squeeze_ends(server: ClearMLServer) -> None:
    code = (
        "import os, signal\n"
        "from tests.trackers.test_clearml_task import connected, OPTIONS\n"
        f"task = connected({server.url!r})\n"
        "task.start('init', **OPTIONS)\n"
        "print(task.process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    process_id = int(done.stdout)
    deadline = time.monotonic() + 30
    while psutil.pid_exists(process_id) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(process_id)
    assert server.task["status"] == "failed"


@pytest.mark.parametrize(
    ("name", "title", "series"),
    [("val/loss", "val", "loss"), ("a/b/c", "a", "b/c"), ("epoch", "epoch", "epoch")],
)
def test_names(name: str, title: str, series: str) -> None:
    class Recorder:
        def call(self, method: str, **arguments: Any) -> None:
            assert method == "report_scalar"
            assert arguments == {"title": title, "series": series, "value": 1.5, "iteration": 3}

    ClearMLLogger(cast(ClearMLTask, Recorder()), with_text=False).log_metrics({name: 1.5}, 3)
