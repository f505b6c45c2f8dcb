"""Experiment trackers: where metrics go besides the run record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from squeeze_cli.config import ExperimentConfig
    from squeeze_cli.console import Reporter
    from squeeze_cli.runs import RunFolder


def create_trackers(config: ExperimentConfig, run: RunFolder, reporter: Reporter) -> list[Any]:
    """Lightning loggers for the trackers that `config` asks for; TensorBoard by default."""
    del reporter
    trackers: list[Any] = []
    if config.logger.use_tensorboard:
        from squeeze_cli.trackers.tensorboard import create_tensorboard

        trackers.append(create_tensorboard(run))
    return trackers
