"""Names that stand for classes, without importing the classes: `--help` must not cost a torch import."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from squeeze_cli.errors import UsageError


@dataclass(frozen=True)
class Entry:
    """One registered name: where its class is, and what may be known of it before importing it.

    Attributes:
        target: `"package.module:Class"`, imported by `Registry.load`.
        summary: one line for help texts and tables.
        options: the configuration fields that mean something for this name.
        defaults: the fields whose default differs from the configuration class's own.
    """

    target: str
    summary: str
    options: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)


class Registry:
    """The names of one kind of part (`quantizer`, `backbone`, `loss`); a name is given only once."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, entry: Entry) -> None:
        """Add `name`; raises ValueError if it is taken, so that nothing is overwritten silently."""
        if name in self._entries:
            raise ValueError(f"the {self.kind} name {name!r} is registered already")
        self._entries[name] = entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise UsageError(self._unknown(name)) from None

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of registration."""
        return tuple(self._entries)

    def load(self, name: str) -> Any:
        """Import and return the class behind `name`; an unknown name is a UsageError."""
        module, _, attribute = self[name].target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(str(name), self._entries, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return f"Unknown {self.kind} {name!r}: choose one of {', '.join(self._entries)}.{hint}"
