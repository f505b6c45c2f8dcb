"""The trackers of a run as loggers of Lightning: TensorBoard and ClearML."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from squeeze_cli.config.record import RunRecord
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError, one_line
from squeeze_cli.runs import RunFolder
from squeeze_cli.trackers.clearml import end_task, start_task
from squeeze_cli.trackers.clearml_task import ClearMLTask
from squeeze_cli.trackers.credentials import ClearMLUnavailableError


@contextmanager
def open_trackers(
    config: ExperimentConfig, run: RunFolder, record: RunRecord, reporter: Reporter
) -> Iterator[list[Logger]]:
    """Open the trackers of `config`; at the end, send ClearML the files of the run's folder.

    `record.status` must then be the final status. Raises SqueezeError where `require_clearml` is set and
    ClearML cannot be used.
    """
    loggers: list[Logger] = []
    if config.logger.use_tensorboard:
        loggers.append(GuardedTensorBoard(run, reporter))
    task = None
    if config.logger.use_clearml:
        try:
            task = start_task(config, run, reporter)
            loggers.append(ClearMLLogger(task, config.logger.auto_connect_frameworks))
        except ClearMLUnavailableError as error:
            if config.logger.require_clearml:
                raise SqueezeError(f"{error}; --require-clearml asks for it.") from None
            rest = "TensorBoard" if config.logger.use_tensorboard else "the run record alone"
            reporter.warn(f"{error}. The run goes on with {rest}.")
    try:
        yield loggers
    finally:
        if task is not None:
            end_task(task, config, run, record)


class ClearMLLogger(Logger):
    """Lightning's logger for a ClearML task that was started; no call waits for the server.

    `with_text` also reports each line of metrics as text in the task's console.
    """

    name = "ClearML"
    version = None

    def __init__(self, task: ClearMLTask, with_text: bool) -> None:
        super().__init__()
        self.task = task
        self._with_text = with_text

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Report one point of each scalar; `val/loss` is the series `loss` of the plot `val`."""
        for name, value in metrics.items():
            title, _, series = name.partition("/")
            point = {"title": title, "series": series or title, "value": float(value)}
            self.task.call("report_scalar", iteration=step or 0, **point)
        if self._with_text:
            listed = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            self.task.call("report_text", msg=f"step {step or 0}: {listed}", print_console=False)

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """Do nothing, because the task already has the whole configuration."""


class GuardedTensorBoard(TensorBoardLogger):
    """Logger of TensorBoard events in the run's folder: `tensorboard --logdir runs` shows all runs.

    After a failure, such as a full disk, it warns once and ignores all further calls.
    """

    def __init__(self, run: RunFolder, reporter: Reporter) -> None:
        super().__init__(save_dir=run.path, name="", version="tensorboard")
        self._reporter = reporter
        self._failed = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write one point per scalar."""
        self._attempt(super().log_metrics, metrics, step)

    def save(self) -> None:
        """Write the buffered events."""
        self._attempt(super().save)

    def finalize(self, status: str) -> None:
        """Close the file of events."""
        self._attempt(super().finalize, status)

    def _attempt(self, method: Callable[..., None], *arguments: object) -> None:
        if self._failed:
            return
        try:
            method(*arguments)
        except Exception as error:  # noqa: BLE001 - no error of TensorBoard may end the training
            self._failed = True
            reason = one_line(f"{type(error).__name__}: {error}")
            self._reporter.warn(f"TensorBoard failed ({reason}); training goes on without it.")


def add_pictures(run: RunFolder, files: Iterable[Path], step: int) -> None:
    """Show PNG files in TensorBoard's tab of images, as `figures/NAME`."""
    from torch.utils.tensorboard import SummaryWriter
    from torchvision.io import decode_image

    # Lightning has closed its writer at the end of the test.
    with SummaryWriter(str(run.path / "tensorboard")) as writer:
        for file in files:
            picture = decode_image(str(file), mode="RGB")
            writer.add_image(f"figures/{file.stem}", picture, step)
