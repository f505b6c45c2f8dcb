"""Experiment trackers, which get metrics besides the run record. TensorBoard is the default.

A tracker never decides whether a run succeeds: squeeze leaves out one that cannot start, with a
warning, reports a failure once, and does not wait for one that hangs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from squeeze_cli.errors import SqueezeError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from squeeze_cli.config.record import RunRecord
    from squeeze_cli.config.schema import ExperimentConfig
    from squeeze_cli.console import Reporter
    from squeeze_cli.runs import RunFolder
    from squeeze_cli.trackers.clearml_task import ClearMLTask


@dataclass
class Trackers:
    """Trackers of one run.

    Attributes:
        loggers: Loggers for Lightning's trainer.
        clearml: The ClearML task behind one of them, if there is one.
    """

    loggers: list[Logger] = field(default_factory=list)
    clearml: ClearMLTask | None = None


@contextmanager
def open_trackers(
    config: ExperimentConfig, run: RunFolder, record: RunRecord, reporter: Reporter
) -> Iterator[Trackers]:
    """Open the trackers that `config` asks for; at the end give them the files of the run's folder.

    `record.status` says at the end how the run went. Raises SqueezeError where
    `require_clearml` is set and ClearML cannot be used.
    """
    trackers = Trackers()
    if config.logger.use_tensorboard:
        from squeeze_cli.trackers.tensorboard import create_tensorboard

        trackers.loggers.append(create_tensorboard(run, reporter))
    if config.logger.use_clearml:
        _add_clearml(trackers, config, run, reporter)
    try:
        yield trackers
    finally:
        if trackers.clearml is not None:
            from squeeze_cli.trackers.clearml import end_task

            end_task(trackers.clearml, config, run, record, reporter)


def _add_clearml(
    trackers: Trackers, config: ExperimentConfig, run: RunFolder, reporter: Reporter
) -> None:
    from squeeze_cli.trackers.clearml import ClearMLLogger, start_task
    from squeeze_cli.trackers.clearml_task import ClearMLUnavailableError
    from squeeze_cli.trackers.guarded import GuardedLogger

    try:
        trackers.clearml = start_task(config, run, reporter)
    except ClearMLUnavailableError as error:
        if config.logger.require_clearml:
            raise SqueezeError(f"{error}; --require-clearml asks for it.") from None
        rest = "TensorBoard" if config.logger.use_tensorboard else "the run record alone"
        reporter.warn(f"{error}. The run goes on with {rest}.")
        return
    logger = ClearMLLogger(trackers.clearml, with_text=config.logger.auto_connect_frameworks)
    logger.log_hyperparams(config.model_dump(mode="json"))
    trackers.loggers.append(GuardedLogger(logger, "ClearML", reporter))
