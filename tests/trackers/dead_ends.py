"""Servers that are none: a real socket for each way in which ClearML can be unreachable."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from tests.trackers.clearml_server import ClearMLServer


@contextmanager
def refused() -> Iterator[str]:
    """A port that nobody listens on."""
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))  # bound, so that nobody else takes it; not listening
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """Takes connections and never says a word."""
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def unroutable() -> Iterator[str]:
    """Drops every packet: a listener whose queue is full, as a host behind a firewall looks."""
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        try:
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            for filler in fillers:
                filler.close()


@contextmanager
def trickling() -> Iterator[str]:
    """Answers a byte a second: no single read times out, all of them together never end."""
    stop = threading.Event()
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=trickle, args=(connection,), daemon=True).start()

        def trickle(connection: socket.socket) -> None:
            with closing(connection):
                while not stop.wait(1.0):
                    try:
                        connection.sendall(b"H")
                    except OSError:
                        return

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            stop.set()


@contextmanager
def unknown_name() -> Iterator[str]:
    """A name that no resolver may know (RFC 6761)."""
    yield "http://squeeze-test.invalid:8008"


@contextmanager
def no_tls() -> Iterator[str]:
    """https where only http is spoken."""
    with ClearMLServer() as server:
        yield server.url.replace("http://", "https://")


@contextmanager
def unauthorized() -> Iterator[str]:
    """Refuses the credentials."""
    with ClearMLServer(login_status=401) as server:
        yield server.url


@contextmanager
def failing() -> Iterator[str]:
    """A gateway whose server is down."""
    with ClearMLServer(login_status=503) as server:
        yield server.url


@contextmanager
def somebody_else() -> Iterator[str]:
    """Any other web server."""
    with ClearMLServer(clearml=False) as server:
        yield server.url


# Each with what the person is told.
DEAD_ENDS = {
    refused: "refuses the connection",
    silent: "does not answer",
    unroutable: "does not answer",
    trickling: "does not answer within 5 seconds",
    unknown_name: "host name squeeze-test.invalid is not known",
    no_tls: "no secure connection",
    unauthorized: "does not take these credentials (HTTP 401)",
    failing: "answers with an error (HTTP 503)",
    somebody_else: "not as a ClearML API server",
}
