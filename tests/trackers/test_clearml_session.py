"""The SDK's requests end. Here its real session talks to a real server, without a task."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from squeeze_cli.trackers.clearml import split_name
from squeeze_cli.trackers.clearml_session import Patience, bound_session
from tests.trackers.clearml_server import KEY, SECRET, ClearMLServer


@pytest.fixture
def session(server: ClearMLServer) -> Any:
    from clearml.backend_api import Session
    from clearml.config import config_obj

    retries = {"total": 1, "connect": 1, "read": 1, "redirect": 1, "status": 1}
    return Session(
        config=config_obj, host=server.url, api_key=KEY, secret_key=SECRET,
        http_retries_config=retries,
    )  # fmt: skip


def ping(session: Any) -> Any:
    from clearml.backend_api.services import tasks
    from clearml.backend_interface.base import InterfaceBase

    return InterfaceBase._send(session, tasks.PingRequest(task="x"), raise_on_errors=False)


def report(session: Any) -> Any:
    from clearml.backend_api.services import events
    from clearml.backend_interface.base import InterfaceBase

    event = events.MetricsScalarEvent(metric="m", variant="v", value=1.0, iter=0, task="x")
    batch = events.AddBatchRequest(requests=[events.AddRequest(event=event)])
    return InterfaceBase._send(session, batch, raise_on_errors=False)


def test_the_private_names_of_the_sdk_are_still_there() -> None:
    from clearml import Task
    from clearml.backend_api import Session
    from clearml.backend_interface.base import InterfaceBase
    from clearml.backend_interface.metrics.reporter import Reporter
    from clearml.backend_interface.task.log import TaskHandler
    from clearml.binding.environ_bind import PatchOsFork

    for owner, names in {
        Task: ("_report_subprocess_enabled", "_remove_signal_hooks", "_remove_exception_hooks",
               "_Task__register_at_exit", "set_random_seed", "_edit_lock"),
        Session: ("_session_timeout", "_session_initial_timeout", "_write_session_timeout"),
        InterfaceBase: ("_set_default_session", "_get_default_session", "_send"),
        TaskHandler: ("_log_stderr",),
        Reporter: ("_handle_program_exit",),
        PatchOsFork: ("patch_fork", "_current_task"),
    }.items():  # fmt: skip
        assert all(hasattr(owner, name) for name in names), owner


def test_the_main_thread_is_refused_at_once_when_the_server_is_gone(
    server: ClearMLServer, session: Any
) -> None:
    patience = Patience()
    http = session._Session__http_session
    tried: list[str] = []
    request = http.request
    http.request = lambda *a, **k: (tried.append("once"), request(*a, **k))[1]
    bound_session(session, patience)
    assert ping(session).meta.result_code == 200
    assert patience.lost_seconds == 0
    server.stop()
    tried.clear()
    assert ping(session).meta.result_code == 400
    assert tried == ["once"]
    assert patience.lost_seconds > 0
    assert ping(session).meta.result_code == 400
    assert report(session).meta.result_code == 400
    assert tried == ["once"]


def in_thread(call: Any, *arguments: Any) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call(*arguments)), daemon=True)
    thread.start()
    return thread, results


def test_reports_are_repeated_until_the_end_and_nothing_else(
    server: ClearMLServer, session: Any
) -> None:
    patience = Patience()
    bound_session(session, patience)
    server.stop()
    reporting, reports = in_thread(report, session)
    pinging, pings = in_thread(ping, session)
    pinging.join(10)
    assert pings[0].meta.result_code == 400  # it may hold a lock that the main thread waits for
    time.sleep(1.5)
    assert reporting.is_alive()
    patience.insist()
    insisting, _ = in_thread(ping, session)
    time.sleep(1.5)
    assert insisting.is_alive()
    patience.end()
    for thread in (reporting, insisting):
        thread.join(4)
        assert not thread.is_alive()
    assert reports[0].meta.result_code == 400


def test_reports_arrive_when_the_server_comes_back(server: ClearMLServer, session: Any) -> None:
    patience = Patience()
    bound_session(session, patience)
    session._session_timeout = (0.3, 0.3)
    ping(session)
    server.fall_silent()
    reporting, reports = in_thread(report, session)
    reporting.join(2)
    assert reporting.is_alive()
    assert patience.lost_seconds > 0
    server.speaks.set()
    reporting.join(10)
    assert reports[0].meta.result_code == 200
    assert patience.lost_seconds == 0


def test_names() -> None:
    assert split_name("val/loss") == ("val", "loss")
    assert split_name("a/b/c") == ("a", "b/c")
    assert split_name("epoch") == ("epoch", "epoch")
