"""Importing torch and what is built on it, without looking for garbage meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """For imports: within the block nothing is collected.

    Importing makes millions of objects that stay to the end. The collector would go over them
    again and again and find nothing, an eighth of the time that the imports take.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
