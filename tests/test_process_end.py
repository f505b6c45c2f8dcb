from __future__ import annotations

import subprocess
import sys

import pytest

# A thread that the interpreter would join for an hour, and what `main` then meets.
PROGRAM = """
import threading, time
from squeeze_cli import cli, process_end
threading.Thread(target=time.sleep, args=(3600,)).start()
process_end.leave_threads_behind()
def app(args): {end}
cli.app = app
cli.main()
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(130)", 130, ""),
        ("raise SystemExit('told')", 1, "told"),
        ("1 / 0", 1, "ZeroDivisionError"),
    ],
)
def test_threads_left_behind_hold_no_end_up(end: str, code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end=end)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert said in done.stderr


# With torch imported (a stand-in: the real one takes seconds) the end is quick, but nothing is lost.
QUICK = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from squeeze_cli import cli
sys.modules["torch"] = sys
class Freed:
    def __del__(self): print("freed")
kept = Freed()
atexit.register(print, "hook ran")
def work():
    time.sleep(0.5)
    print("thread ended")
ThreadPoolExecutor().submit(print, "idle workers hold nothing up")
threading.Thread(target=work).start()
def app(args): sys.exit(3)
cli.app = app
cli.main()
"""


def test_with_torch_threads_are_joined_and_hooks_run_but_objects_are_not_freed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUICK], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3
    assert done.stdout.splitlines() == ["idle workers hold nothing up", "thread ended", "hook ran"]
    assert not done.stderr
