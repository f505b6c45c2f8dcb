"""Switches of ClearML's SDK that are environment variables, read as it reads them."""

from __future__ import annotations

import os

_NO = ("0", "false", "no", "off", "n", "f")


def is_on(*names: str, default: bool = False) -> bool:
    """What the first of the variables says that is set to anything; `default` where none is."""
    for name in names:
        if given := os.environ.get(name, "").strip().lower():
            return given not in _NO
    return default
