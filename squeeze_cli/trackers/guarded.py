"""A tracker that fails must not end a training: it is reported once and left alone."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import Logger

from squeeze_cli.console import Reporter


class GuardedLogger(Logger):
    """Hands everything on to `inner` until that raises; then says so, once, and drops the rest."""

    def __init__(self, inner: Logger, label: str, reporter: Reporter) -> None:
        super().__init__()
        self.inner = inner
        self.label = label
        self.failed = False
        self._reporter = reporter

    @property
    def name(self) -> str | None:
        """The inner logger's."""
        return self.inner.name

    @property
    def version(self) -> int | str | None:
        """The inner logger's."""
        return self.inner.version

    @property
    def save_dir(self) -> str | None:
        """The inner logger's."""
        return self.inner.save_dir

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Hand on."""
        self.attempt(self.inner.log_metrics, metrics, step)

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Hand on."""
        self.attempt(self.inner.log_hyperparams, params, *args, **kwargs)

    def save(self) -> None:
        """Hand on."""
        self.attempt(self.inner.save)

    def finalize(self, status: str) -> None:
        """Hand on."""
        self.attempt(self.inner.finalize, status)

    def attempt(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Make a call for this tracker; its first error is reported and ends the tracking."""
        if self.failed:
            return
        try:
            call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, training goes on
            self.failed = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self._reporter.warn(f"{self.label} failed ({reason}); training goes on without it.")
