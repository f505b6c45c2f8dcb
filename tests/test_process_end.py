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
