"""ClearML as a tracker: its Lightning logger, and the begin and the end of a run's task."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger

from squeeze_cli.config.record import Metrics, RunRecord
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.files import write_text_atomically
from squeeze_cli.runs import RunFolder
from squeeze_cli.trackers.clearml_task import (
    ClearMLTask,
    flat_parameters,
    require_sdk,
    usable_credentials,
)
from squeeze_cli.trackers.remote import describe_source

STATE_FILE = "clearml.json"
OFFLINE_ARCHIVE = "clearml-offline.zip"


class ClearMLLogger(Logger):
    """Lightning's logger for a ClearML task; no call waits for the server.

    `val/loss` becomes series `loss` of the plot `val`, as from TensorBoard's files.
    """

    def __init__(self, task: ClearMLTask, with_text: bool) -> None:
        super().__init__()
        self.task = task
        self._with_text = with_text

    @property
    def name(self) -> str:
        """The tracker's name."""
        return "ClearML"

    @property
    def version(self) -> str:
        """The task's id."""
        return self.task.id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Report one point of each scalar, and a line of text for the task's console."""
        for name, value in metrics.items():
            title, series = split_name(name)
            self.task.log(
                "report_scalar", title=title, series=series, value=float(value), iteration=step or 0
            )
        if self._with_text:
            listed = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            self.task.log("report_text", msg=f"step {step or 0}: {listed}", print_console=False)

    def log_hyperparams(
        self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Report hyperparameters; a nested one gets a name such as `quantizer/type`."""
        del args, kwargs
        values = vars(params) if isinstance(params, Namespace) else params
        self.task.send("parameters", values=flat_parameters(values))


def start_task(config: ExperimentConfig, run: RunFolder, reporter: Reporter) -> ClearMLTask:
    """Begin the task of a run, or go on with that of a resumed run.

    Raises ClearMLUnavailableError where ClearML cannot be used, and SqueezeError where its SDK is not
    installed.
    """
    require_sdk()
    options = config.logger
    offline = options.clearml_offline
    credentials = None if offline else usable_credentials(config, reporter)
    task = ClearMLTask(reporter)
    task.connect(credentials, offline)
    task.start(
        source=describe_source(sys.argv[1:]) if options.auto_connect_frameworks else None,
        project_name=options.project_name,
        task_name=options.task_name or run.name,
        tags=list(options.clearml_tags) or None,
        continue_last_task=False if offline else _earlier_task(run) or False,
    )
    state = {"task_id": task.id, "page": None if offline else task.page}
    write_text_atomically(run.path / STATE_FILE, json.dumps(state, indent=2) + "\n")
    where = "into an archive, offline" if offline else task.page
    reporter.say(f"ClearML task {task.id}: {where}")
    return task


def _earlier_task(run: RunFolder) -> str | None:
    """The task of a resumed run, if it was on a server."""
    try:
        state = json.loads((run.path / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(state["task_id"]) if isinstance(state, dict) and state.get("page") else None


def end_task(
    task: ClearMLTask,
    config: ExperimentConfig,
    run: RunFolder,
    record: RunRecord,
    reporter: Reporter,
) -> None:
    """Give ClearML the run's outputs and end its task; a warning tells what ClearML missed."""
    publish_run(task, config, run, record)
    archive = run.path / OFFLINE_ARCHIVE
    answer = task.finish("close", "closed", status=record.status, archive=str(archive))
    if isinstance(answer, str):
        reporter.warn(f"ClearML did not get all of this run ({answer}): {run.path} has it whole.")
    elif config.logger.clearml_offline:
        reporter.say(
            f'ClearML session: {archive}\nImport it:  python -c "from clearml import Task; '
            f"Task.import_offline_session('{archive}')\""
        )


def publish_run(
    task: ClearMLTask, config: ExperimentConfig, run: RunFolder, record: RunRecord
) -> None:
    """Report results, figures, codes and the best checkpoint, as far as the run has them."""
    rows = metrics_table(record.metrics)
    if len(rows) > 1:
        task.log("report_table", title="results", series="metrics", iteration=0, table_plot=rows)
    for name, value in record.metrics.test or ():
        if isinstance(value, (int, float)):
            task.log("report_single_value", name=f"test/{name}", value=float(value))
    for image in sorted((run.path / "figures").glob("*.png")):
        path = str(image.resolve())
        task.log("report_image", title="figures", series=image.stem, iteration=0, local_path=path)
    files = [run.config_file, run.record_file, run.prior_file]
    files += sorted(run.codes_folder.glob("[!.]*"))
    for file in files:
        if file.is_file():
            name, path = file.relative_to(run.path).as_posix(), str(file.resolve())
            task.call("upload_artifact", name=name, artifact_object=path, auto_pickle=False)
    if run.best_checkpoint.is_file():
        best = str(run.best_checkpoint.resolve())
        task.send(
            "model", name=f"{run.name} best", path=best, design=config.model_dump(mode="json")
        )


def split_name(name: str) -> tuple[str, str]:
    """Split `val/loss` into ClearML's title and series; a name without a slash is both."""
    title, _, series = name.partition("/")
    return title, series or title


def metrics_table(metrics: Metrics) -> list[list[str | float | None]]:
    """Rows of split, mean IoU, accuracy and loss; the first row holds the headings."""
    rows: list[list[str | float | None]] = [["split", "iou", "accuracy", "loss"]]
    for split, measured in metrics:
        if measured is not None:
            rows.append([split, measured.iou, measured.accuracy, measured.loss])
    return rows
