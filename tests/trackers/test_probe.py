from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from squeeze_cli.trackers.credentials import Credentials, probe, responds
from tests.trackers.clearml_server import KEY, SECRET, ClearMLServer
from tests.trackers.dead_ends import failing, refused, silent, trickling, unroutable

DeadEnd = Callable[[], AbstractContextManager[str]]


def credentials(url: str, secret: str = SECRET) -> Credentials:
    return Credentials(url, url, url, KEY, secret)


def test_a_server_that_takes_the_credentials(server: ClearMLServer) -> None:
    assert probe(credentials(server.url)) is None
    assert server.calls == ["auth.login"]
    assert responds(server.url)


def test_a_server_that_does_not_take_them(server: ClearMLServer) -> None:
    assert "HTTP 401" in (probe(credentials(server.url, "wrong")) or "")


@pytest.mark.parametrize("dead_end", [trickling, silent, unroutable])
def test_time_is_all_that_it_is_given(dead_end: DeadEnd) -> None:
    """In five seconds a run does each of these, and the others: tests/trackers/test_fallback.py."""
    with dead_end() as url:
        start = time.monotonic()
        assert "does not answer" in (probe(credentials(url), seconds=0.5) or "")
        assert not responds(url, seconds=0.5)
        assert time.monotonic() - start < 2


def test_credentials_are_not_carried_to_another_server(server: ClearMLServer) -> None:
    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{server.url}/auth.login")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Redirect) as elsewhere:
        threading.Thread(target=elsewhere.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{elsewhere.server_address[1]}"
        assert "not as a ClearML API server" in (probe(credentials(url)) or "")
    assert server.calls == []


def test_only_an_answer_counts_as_life() -> None:
    with refused() as url:
        assert not responds(url, seconds=0.5)
    with failing() as url:
        assert responds(url)  # its root answers; the API behind it is what fails
