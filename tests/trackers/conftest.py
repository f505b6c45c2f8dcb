from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from squeeze_cli.trackers.credentials import ENVIRONMENT
from tests.trackers.clearml_server import ClearMLServer


@pytest.fixture(autouse=True)
def _nobodys_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds the credentials of the person who runs it, or a proxy."""
    for variable in (*ENVIRONMENT.values(), "CLEARML_CONFIG_FILE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[ClearMLServer]:
    with ClearMLServer() as running:
        yield running
