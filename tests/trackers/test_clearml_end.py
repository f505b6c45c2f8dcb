"""The end of a task: a server that answers is waited for, nothing else is."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from squeeze_cli import process_end
from squeeze_cli.console import Reporter
from squeeze_cli.trackers import clearml_end
from squeeze_cli.trackers.clearml_end import end_task
from squeeze_cli.trackers.clearml_session import Patience
from squeeze_cli.trackers.clearml_task import ClearMLSession
from tests.trackers.clearml_server import ClearMLServer
from tests.trackers.dead_ends import trickling


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_end, "_left_behind", False)


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What the last words wait for; the test's end lets them go."""
    event = threading.Event()
    yield event
    event.set()


def session(url: str) -> ClearMLSession:
    task = SimpleNamespace(close=lambda: None, mark_failed=lambda **_: None)
    return ClearMLSession(task, Patience(), (url, url))


def test_a_server_that_answers_is_waited_for(
    server: ClearMLServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clearml_end, "SILENCE_SECONDS", 1.5)
    monkeypatch.setattr(clearml_end, "SHORT_SECONDS", 1.5)
    said: list[str] = []

    def upload() -> None:
        time.sleep(4)
        said.append("all")

    assert end_task(session(server.url), Reporter(), "finished", upload) is None
    assert said == ["all"]
    assert not process_end._left_behind
    assert capsys.readouterr().err.count("Waiting for ClearML") == 1


def test_a_server_that_only_trickles_is_given_up_in_time(stuck: threading.Event) -> None:
    with trickling() as url:
        start = time.monotonic()
        missed = end_task(session(url), Reporter(), "finished", stuck.wait)
        assert time.monotonic() - start < 12  # 15 with what else the process does at its end
    assert missed == "its server was gone"
    assert process_end._left_behind


def test_ctrl_c_ends_the_waiting_alone(server: ClearMLServer, stuck: threading.Event) -> None:
    threading.Timer(0.5, _thread.interrupt_main).start()
    missed = end_task(session(server.url), Reporter(), "finished", stuck.wait)
    assert missed == "the waiting for its server was interrupted"
    assert process_end._left_behind
