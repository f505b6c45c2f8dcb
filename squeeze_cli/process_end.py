"""The end of the process, where something foreign would not let it end.

Python joins threads and runs exit hooks before a process ends. A tracker's threads that wait for a
server that is gone can keep it from ending; squeeze has then written all that is its own, and ends
the process without them.
"""

from __future__ import annotations

import os
import sys
import traceback

_left_behind = False


def leave_threads_behind() -> None:
    """Let `end_process` skip Python's exit hooks: all of ours is written, only others wait."""
    global _left_behind
    _left_behind = True


def end_process(code: object) -> None:
    """End the process at once if threads are left behind, else return.

    Args:
        code: as in SystemExit: an exit status, a message, or None.
    """
    if not _left_behind:
        return
    if isinstance(code, str):
        print(code, file=sys.stderr)  # noqa: T201 - as the interpreter would
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def end_process_after_error() -> None:
    """`end_process` for an exception that nobody has caught: its traceback is shown first."""
    if _left_behind:
        traceback.print_exc()
        end_process(1)
