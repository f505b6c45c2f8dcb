from __future__ import annotations

import os

import pytest

from squeeze_cli.threads import share_cores


@pytest.mark.parametrize("said", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_the_user_says_of_waiting_threads_holds(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(said, "7" if said == "GOMP_SPINCOUNT" else "ACTIVE")
    before = dict(os.environ)
    share_cores()
    assert os.environ == before
    monkeypatch.delenv(said)
    share_cores()
    assert int(os.environ["GOMP_SPINCOUNT"]) < 100_000
