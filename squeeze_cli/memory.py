"""The C library's memory, set for a process that asks for the same megabytes in every step."""

from __future__ import annotations

import ctypes
import sys

# Of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_ALWAYS = 2**30


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process until its end; False where the C library is not glibc.

    glibc gives large blocks back to the system when they are freed, and the next step gets them
    again page by page, each cleared and mapped: up to a quarter of a small head's step.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl
        return False
    return all(mallopt(option, _ALWAYS) for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD))
