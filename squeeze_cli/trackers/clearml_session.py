"""ClearML's requests, made to end: its SDK repeats each of them until it succeeds.

`InterfaceBase._send` of the SDK (2.1) loops for ever on a connection error, below it `requests`
retries 240 times with pauses of up to two minutes, and at exit the process joins the threads that
do so. The loop is left on any answer of the server's, a refusal too. So the one session that the
SDK uses gets few retries and short timeouts, and once `Patience` has run out its `send` answers
with a refusal, at once; everything that waits for the server then ends by itself.

This is the only file that knows the SDK's private names; tests/trackers/test_clearml_session.py
fails where an update of the SDK changes them.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from squeeze_cli.trackers.credentials import ENVIRONMENT

if TYPE_CHECKING:
    from squeeze_cli.trackers.credentials import Credentials

# Connect and read, in seconds; the second pair for requests of more than 15 kB.
REQUEST_TIMEOUT_S = (3.0, 10.0)
WRITE_TIMEOUT_S = (5.0, 60.0)
# Between attempts of the threads that may go on trying.
RETRY_PAUSE_S = 1.0
# So long after a failure nothing but the reports is tried at all.
SPARE_S = 30.0
_RETRIES = {"total": 1, "connect": 1, "read": 0, "redirect": 1, "status": 1, "backoff_factor": 0.3}
_CONFIGURATION = {
    "api": {"http": {"wait_on_maintenance_forever": False}},
    "sdk": {
        "development": {"suppress_update_message": True},
        "http": {"download": {"max_retries": 2}},  # of uploads too, whatever its name says
        "network": {"file_upload_retries": 2},
    },
}


class Patience:
    """Which requests may be repeated, and until when.

    While the run goes on, only reports are, which a thread of their own sends. All others fail
    after one attempt: the main thread makes some, and others are made under locks that the main
    thread waits for. From `insist` to `end`, when the run is over, every thread may repeat.
    """

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._insists = False
        self._lost_since: float | None = None
        self._last_failure: float | None = None
        self.reason = ""

    @property
    def over(self) -> bool:
        """Whether no request may be tried any more."""
        return self._ended.is_set()

    @property
    def lost_seconds(self) -> float:
        """For how long the server has not answered; 0 where it answered last time."""
        return 0.0 if self._lost_since is None else time.monotonic() - self._lost_since

    def insist(self) -> None:
        """From now on every request is worth repeating."""
        self._insists = True

    def end(self) -> None:
        """From now on every request is refused at once."""
        self._ended.set()

    def answered(self) -> None:
        """The server is there."""
        self._lost_since = self._last_failure = None

    def failed(self, reason: str) -> None:
        """The server did not answer; a thread that may go on trying pauses."""
        self._last_failure = time.monotonic()
        self._lost_since = self._lost_since or self._last_failure
        self.reason = reason

    def pause(self) -> None:
        """Before the next attempt; cut short by `end`."""
        self._ended.wait(RETRY_PAUSE_S)

    def repeats(self, is_report: bool) -> bool:
        """Whether the calling thread may try a request again that has failed."""
        if self.over or threading.current_thread() is threading.main_thread():
            return False
        return is_report or self._insists

    def refuses(self, is_report: bool) -> bool:
        """Whether a request is not even tried: soon after another has failed, or after the end."""
        last = self._last_failure
        if self.over or last is None or self.repeats(is_report):
            return self.over
        return time.monotonic() - last < SPARE_S


def install_session(credentials: Credentials | None, patience: Patience) -> tuple[str, str]:
    """Make the SDK's default session: bounded by `patience`, with these credentials.

    None leaves the credentials to the SDK's own configuration, as on a ClearML agent. Returns the
    addresses of the API server and of the file server.
    """
    from clearml.backend_api import Session
    from clearml.backend_interface.base import InterfaceBase
    from clearml.config import config_obj

    configure_sdk()
    Session._session_initial_timeout = REQUEST_TIMEOUT_S
    Session._session_timeout = REQUEST_TIMEOUT_S
    Session._write_session_timeout = WRITE_TIMEOUT_S
    given: dict[str, Any] = {}
    if credentials is not None:
        # Parts of the SDK beside its session find the server by these.
        for name, variable in ENVIRONMENT.items():
            os.environ[variable] = getattr(credentials, name)
        given = {
            "host": credentials.api_host,
            "api_key": credentials.api_key,
            "secret_key": credentials.api_secret,
        }
    session = Session(config=config_obj, http_retries_config=dict(_RETRIES), **given)
    bound_session(session, patience)
    InterfaceBase._set_default_session(session)
    return Session.get_api_server_host(), Session.get_files_server_host()


def configure_sdk() -> None:
    """Few retries, and no process or random seed of the SDK's own."""
    from clearml import Task
    from clearml.config import ConfigSDKWrapper, ConfigWrapper
    from clearml.utilities.pyhocon import ConfigFactory

    ConfigWrapper.set_overrides(ConfigFactory.from_dict(_CONFIGURATION))
    ConfigSDKWrapper.clear_config_impl()
    # Reports go out from threads: a forked reporter would outlive the process and hold its pipes.
    Task._report_subprocess_enabled = False
    # So one process needs no lock of its own in the temporary folder, which the SDK leaves there.
    Task._edit_lock = property(_lock_in_memory, lambda task, lock: None)
    _keep_off_the_streams()
    Task.set_random_seed(None)  # else Task.init reseeds torch, and the run is another one


def _lock_in_memory(task: Any) -> Any:
    return vars(task).setdefault("_squeeze_lock", threading.RLock())


def _keep_off_the_streams() -> None:
    """What the SDK has to say goes to the task's log: stdout is for data, and its threads repeat
    themselves on stderr while a server is away.
    """
    from clearml import Logger
    from clearml.backend_interface.task.log import TaskHandler

    report = Logger.report_text

    def report_text(self: Any, msg: str, level: int = logging.INFO, *_: Any, **__: Any) -> None:
        report(self, msg, level, print_console=False)

    if report.__module__ != __name__:
        Logger.report_text = report_text
        TaskHandler._log_stderr = staticmethod(lambda *_, **__: None)


def detach_from_process(task: Any) -> None:
    """Take back what `Task.init` hooks into the process: signals, exceptions, forks and the exit.

    At each of them the SDK would wait for the server; squeeze ends the task itself. Workers that
    read images are forked, and report nothing.
    """
    from clearml import Task
    from clearml.binding.environ_bind import PatchOsFork

    Task._remove_signal_hooks()
    Task._remove_exception_hooks()
    Task._Task__register_at_exit(None)
    PatchOsFork.patch_fork(None)
    atexit.unregister(task._reporter._handle_program_exit)


def bound_session(session: Any, patience: Patience) -> None:
    """Replace the session's `send`, and the HTTP call below it, by ones that `patience` bounds."""
    http = session._Session__http_session
    session.send = _bounded_send(session.send, patience)
    http.request = _bounded_request(http.request, patience)


def _bounded_send(send: Callable[..., Any], patience: Patience) -> Callable[..., Any]:
    from clearml.backend_api.session import BatchRequest
    from clearml.backend_api.session.session import LoginError
    from requests.exceptions import ConnectionError as Unreachable
    from requests.exceptions import RequestException

    def bounded(req_obj: Any, *args: Any, **kwargs: Any) -> Any:
        is_report = isinstance(req_obj, BatchRequest)
        if patience.refuses(is_report):
            return _refusal(patience.reason)
        try:
            result = send(req_obj, *args, **kwargs)
        except (RequestException, LoginError) as error:
            patience.failed(type(error).__name__)
        else:
            if result is None or result.meta.result_code <= 500:
                patience.answered()
                return result
            patience.failed(f"HTTP {result.meta.result_code}")
        if not patience.repeats(is_report):
            return _refusal(patience.reason)
        patience.pause()
        raise Unreachable(patience.reason)  # the SDK's loop takes this quietly and tries again

    return bounded


def _bounded_request(request: Callable[..., Any], patience: Patience) -> Callable[..., Any]:
    """The SDK repeats a request on a TLS error or a maintenance page without leaving `send`."""
    from requests.exceptions import ConnectionError as Unreachable
    from requests.exceptions import SSLError

    def bounded(*args: Any, **kwargs: Any) -> Any:
        if patience.over:
            raise Unreachable(patience.reason)
        try:
            return request(*args, **kwargs)
        except SSLError:
            raise Unreachable("TLS failed") from None

    return bounded


def _refusal(reason: str) -> Any:
    """What the SDK makes of a request that the server has refused: it ends the SDK's loop."""
    from clearml.backend_api import CallResult
    from clearml.backend_api.session.response import ResponseMeta

    text = f"squeeze: the server does not answer ({reason})"
    return CallResult(meta=ResponseMeta.from_raw_data(status_code=400, text=text))
