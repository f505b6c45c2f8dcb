"""Errors that users see: each message is one line that names the fix."""

import difflib
from collections.abc import Iterable


class SqueezeError(Exception):
    """A problem that the user can fix; it ends the command with exit status 1."""

    exit_code = 1


class UsageError(SqueezeError):
    """An invalid command line or configuration; it ends the command with exit status 2."""

    exit_code = 2


class DamagedCodesError(SqueezeError):
    """Codes that no encoder can have written: the file or stream is damaged or truncated."""


def one_line(problem: object, most: int = 200) -> str:
    """Return a text, or the message of an exception, as one line of at most `most` characters."""
    return " ".join(str(problem).split())[:most] or type(problem).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: the most similar known name, or all known names."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}."
