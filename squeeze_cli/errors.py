"""Errors that a user can see: each message is one line that names the fix."""

import difflib
from collections.abc import Iterable


class SqueezeError(Exception):
    """A problem that the user can fix; it ends the command with exit status 1."""

    exit_code = 1


class UsageError(SqueezeError):
    """A command line or configuration without meaning; it ends the command with exit status 2."""

    exit_code = 2


class DamagedCodesError(SqueezeError):
    """Codes that no encoder wrote: the file or stream is damaged or truncated."""


def one_line(problem: object, most: int = 200) -> str:
    """Return a text, or what an exception says, as one line of at most `most` characters."""
    return " ".join(str(problem).split())[:most] or type(problem).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message on an unknown name: the nearest known one, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}."
