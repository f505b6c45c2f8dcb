"""Compact list of image names in a codes file: each entry is a name, or the step from the one before."""

from collections.abc import Iterable, Sequence

# Limit of the bytes of all names of a file together.
MOST_NAME_BYTES = 2**27
_LONGEST_NUMBER = 15


def shorten_names(names: Sequence[str]) -> list[str | int]:
    """Return an entry for each name; `restore_names` is the inverse.

    Most image files are numbered, so a name is often the previous one with a larger number. Its entry
    is then the difference of the numbers.
    """
    entries: list[str | int] = []
    previous = ""
    for name in names:
        step = int(_digits(name) or 0) - int(_digits(previous) or 0)
        entries.append(step if _increase(previous, step) == name else name)
        previous = name
    return entries


def restore_names(entries: Iterable[str | int]) -> tuple[str, ...]:
    """Return the names of these entries.

    Raises ValueError for names that are empty, equal, not valid UTF-8, or take too much memory.
    """
    names: list[str] = []
    size, previous = 0, ""
    for entry in entries:
        name = entry if isinstance(entry, str) else _increase(previous, entry)
        if not name or "\0" in name:
            raise ValueError("a name is empty, or contains a zero byte")
        size += len(name.encode())  # surrogates, for bytes that are no text, are a ValueError
        if size > MOST_NAME_BYTES:
            raise ValueError("the names are too long")
        names.append(name)
        previous = name
    if len(set(names)) < len(names):
        raise ValueError("a name occurs twice")
    return tuple(names)


def _increase(name: str, step: int) -> str | None:
    """Return the name with its number increased by `step`, or None if there is no such name."""
    digits = _digits(name)
    if not digits or int(digits) + step < 0:
        return None
    # A number that begins with a zero has a fixed width.
    width = len(digits) if digits[0] == "0" else 1
    return name[: -len(digits)] + str(int(digits) + step).zfill(width)


def _digits(name: str) -> str:
    """Return the digits at the end of a name, at most 15."""
    end = name[-_LONGEST_NUMBER:]
    return end[len(end.rstrip("0123456789")) :]
