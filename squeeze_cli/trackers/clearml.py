"""A Lightning logger for ClearML: scalars under TensorBoard's names, figures, tables, files, models."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from squeeze_cli.trackers.clearml_session import Patience

# A server that has not answered for so long is worth a word.
LOST_SECONDS = 10.0


class ClearMLLogger(Logger):
    """Reports to one ClearML task.

    Nothing here waits for the server: the SDK queues reports and its threads send them.

    Args:
        task: a `clearml.Task`.
        patience: what its session is bound by.
        files_host: where models are uploaded to; None leaves it to the SDK.
        warn: called once, with a sentence, when the server stops answering.
    """

    def __init__(
        self,
        task: Any,
        patience: Patience,
        files_host: str | None,
        warn: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.task = task
        self.patience = patience
        self.files_host = files_host
        self._warn = warn
        self._said_lost = False

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self.task.name)

    @property
    def version(self) -> str:
        """The task's id."""
        return str(self.task.id)

    @property
    def experiment(self) -> Any:
        """The `clearml.Task`."""
        return self.task

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Scalars; `val/loss` is series `loss` of the plot `val`, as from TensorBoard's files."""
        for name, value in metrics.items():
            title, series = split_name(name)
            self._reports.report_scalar(title, series, value=float(value), iteration=step or 0)
        self.say_if_lost()

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nested values become names such as `quantizer/type`; lists are written as text."""
        del args, kwargs
        values = vars(params) if isinstance(params, Namespace) else params
        flat: dict[str, Any] = {}
        for name, content in values.items():
            if isinstance(content, Mapping):
                flat.update({f"{name}/{key}": value for key, value in content.items()})
            else:
                flat[f"experiment/{name}"] = content
        self.task.update_parameters(flat)

    def log_value(self, name: str, value: float) -> None:
        """One number of the whole run, which ClearML's own comparison shows in a table."""
        self._reports.report_single_value(name, float(value))

    def log_table(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        """A table; its first row holds the headings."""
        title, series = split_name(name)
        self._reports.report_table(title, series, iteration=0, table_plot=[list(r) for r in rows])

    def log_figure(self, name: str, image: Path) -> None:
        """An image file."""
        title, series = split_name(name)
        self._reports.report_image(title, series, iteration=0, local_path=str(image))

    def log_artifact(self, name: str, path: Path) -> None:
        """A file, uploaded as it is."""
        self.task.upload_artifact(name, artifact_object=str(path), auto_pickle=False)

    def log_model(self, name: str, checkpoint: Path, config: Mapping[str, Any]) -> None:
        """A checkpoint, uploaded and registered as a model of this task.

        Offline it is an artifact: the SDK records a model by its path on this machine alone.
        """
        if self.task.is_offline():
            self.log_artifact(f"checkpoints/{checkpoint.name}", checkpoint)
            return
        from clearml import OutputModel

        model = OutputModel(
            task=self.task, name=name, framework="PyTorch", config_dict=dict(config)
        )
        model.update_weights(
            str(checkpoint),
            upload_uri=self.files_host,
            target_filename=checkpoint.name,
            auto_delete_file=False,
        )

    def say_if_lost(self) -> None:
        """Tell the person, once, that the server has stopped answering."""
        if self.patience.lost_seconds > LOST_SECONDS and not self._said_lost:
            self._said_lost = True
            self._warn(
                f"The ClearML server has stopped answering ({self.patience.reason}); training goes "
                "on, and what it has not got is sent should it come back before the end."
            )

    @property
    def _reports(self) -> Any:
        return self.task.get_logger()


def split_name(name: str) -> tuple[str, str]:
    """`val/loss` as ClearML's title and series; a name without a slash is both."""
    title, _, series = name.partition("/")
    return title, series or title
