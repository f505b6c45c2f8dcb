"""Figures drawn in a process of their own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from squeeze_cli.reports import drawing
from squeeze_cli.reports.drawing import DrawingProcess

HISTORY = [{"epoch": 0, "train": {"loss": 1.0, "iou": 0.5}, "val": {"loss": 1.0, "iou": 0.25}}]


@pytest.fixture(params=["here", "beside"])
def process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DrawingProcess:
    import matplotlib.figure  # noqa: F401 - what is imported is used

    if request.param == "beside":
        monkeypatch.delitem(sys.modules, "matplotlib.figure")
    made = DrawingProcess()
    assert (made._process is not None) == (request.param == "beside")
    return made


def test_figures_are_there_when_it_has_finished(process: DrawingProcess, tmp_path: Path) -> None:
    with process:
        process.draw("curves_figure", HISTORY, 0, path=tmp_path / "a" / "curves.png")
        process.draw("curves_figure", HISTORY, None, path=tmp_path / "other.png")
        process.finish()
    assert (tmp_path / "a" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.rglob("*.*")} == {"curves.png", "other.png"}


def test_what_goes_wrong_is_raised_when_it_finishes(
    process: DrawingProcess, tmp_path: Path
) -> None:
    with process:
        process.draw("curves_figure", [{"epoch": 0}], 0, path=tmp_path / "curves.png")
        process.draw("curves_figure", HISTORY, 0, path=tmp_path / "later.png")
        with pytest.raises(KeyError, match="train"):
            process.finish()


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    class LocalError(Exception):
        pass

    answer = drawing._pickled(LocalError("no font"))
    assert b"RuntimeError" in answer
    assert b"LocalError: no font" in answer


def start_beside(monkeypatch: pytest.MonkeyPatch) -> tuple[DrawingProcess, psutil.Process]:
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    made = DrawingProcess()
    assert made._process is not None
    return made, psutil.Process(made._process.pid)


def test_it_goes_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    made, process = start_beside(monkeypatch)
    with pytest.raises(ZeroDivisionError), made:
        raise ZeroDivisionError
    assert not process.is_running()


def test_one_that_was_killed_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made, process = start_beside(monkeypatch)
    process.kill()
    for _ in range(3):  # into a broken pipe, sooner or later
        made.draw("curves_figure", HISTORY, 0, path=tmp_path / "curves.png")
        time.sleep(0.05)
    with pytest.raises(Exception, match="ended with -9"):
        made.finish()


def test_without_a_process_figures_are_drawn_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail() -> None:
        raise BlockingIOError("no process to be had")

    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    monkeypatch.setattr(drawing, "_start", fail)
    made = DrawingProcess()
    made.draw("curves_figure", HISTORY, 0, path=tmp_path / "curves.png")
    made.finish()
    assert (tmp_path / "curves.png").exists()


def test_it_ends_when_its_maker_is_killed() -> None:
    code = (
        "import os, signal; from squeeze_cli.reports.drawing import DrawingProcess;"
        "print(DrawingProcess()._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    deadline = time.monotonic() + 30
    while is_running(int(made.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert made.stderr == b""


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
