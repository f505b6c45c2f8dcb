"""The end of the process: without freeing every object, and without waiting for what is foreign.

- Python's own end takes a second once torch is imported, for objects that the system frees at once.
  Threads are joined and exit hooks run as ever; then the process is gone. (mypy ends likewise.)
- A tracker's threads that wait for a server that is gone can keep a process from ending. squeeze
  has then written all that is its own, and ends the process without them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import traceback

_left_behind = False


def leave_threads_behind() -> None:
    """Let `end_process` skip Python's exit hooks: all of ours is written, only others wait."""
    global _left_behind
    _left_behind = True


def end_process(code: object) -> None:
    """End the process if threads are left behind or torch is imported, else return.

    Args:
        code: as in SystemExit: an exit status, a message, or None.
    """
    if not _left_behind and "torch" not in sys.modules:
        return
    if isinstance(code, str):
        print(code, file=sys.stderr)  # noqa: T201 - as the interpreter would
    if not _left_behind:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a pipe that nobody reads any more
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def end_process_after_error() -> None:
    """`end_process` for an exception that nobody has caught: its traceback is shown first."""
    if _left_behind:
        traceback.print_exc()
        end_process(1)
