"""A logger whose failure does not stop a training."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import Logger

from squeeze_cli.console import Reporter


class GuardedLogger(Logger):
    """A logger that hands everything to `inner` until that raises an error.

    A warning then tells the reason once, and the training goes on without this tracker.
    """

    def __init__(self, inner: Logger, label: str, reporter: Reporter) -> None:
        super().__init__()
        self.inner = inner
        self.label = label
        self.failed = False
        self._reporter = reporter

    @property
    def name(self) -> str | None:
        """The inner logger's name."""
        return self.inner.name

    @property
    def version(self) -> int | str | None:
        """The inner logger's version."""
        return self.inner.version

    @property
    def save_dir(self) -> str | None:
        """The inner logger's folder."""
        return self.inner.save_dir

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Hand metrics on."""
        self._attempt(self.inner.log_metrics, metrics, step)

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Hand hyperparameters on."""
        self._attempt(self.inner.log_hyperparams, params, *args, **kwargs)

    def save(self) -> None:
        """Save the inner logger."""
        self._attempt(self.inner.save)

    def finalize(self, status: str) -> None:
        """Finalize the inner logger."""
        self._attempt(self.inner.finalize, status)

    def _attempt(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        if self.failed:
            return
        try:
            call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, training goes on
            self.failed = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self._reporter.warn(f"{self.label} failed ({reason}); training goes on without it.")
