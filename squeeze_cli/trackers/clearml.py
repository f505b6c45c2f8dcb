"""ClearML as a tracker: its Lightning logger, and the begin and the end of a run's task."""

from __future__ import annotations

import json
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping
from importlib.metadata import distributions
from typing import Any

from lightning.pytorch.loggers import Logger

from squeeze_cli.config.record import RunRecord
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.files import write_text_atomically
from squeeze_cli.runs import RunFolder
from squeeze_cli.trackers.clearml_task import (
    ClearMLTask,
    require_sdk,
    running_on_agent,
    usable_credentials,
)
from squeeze_cli.trackers.remote import present_source, record_source

STATE_FILE = "clearml.json"
OFFLINE_ARCHIVE = "clearml-offline.zip"


class ClearMLLogger(Logger):
    """Lightning's logger for a ClearML task; no call waits for the server.

    Args:
        task: The task, which has begun.
        with_text: Report each line of metrics as text too, for the task's console.
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
        """Report one point of each scalar."""
        for name, value in metrics.items():
            title, series = split_name(name)
            self.task.call(
                "report_scalar", title=title, series=series, value=float(value), iteration=step or 0
            )
        if self._with_text:
            listed = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            self.task.call("report_text", msg=f"step {step or 0}: {listed}", print_console=False)

    def log_hyperparams(
        self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Report hyperparameters; a nested one gets a name such as `quantizer/type`."""
        del args, kwargs
        self.task.set_parameters(vars(params) if isinstance(params, Namespace) else params)


def split_name(name: str) -> tuple[str, str]:
    """Split `val/loss` into ClearML's plot `val` and series `loss`, as for TensorBoard's files.

    A name without a slash is both.
    """
    title, _, series = name.partition("/")
    return title, series or title


def start_task(config: ExperimentConfig, run: RunFolder, reporter: Reporter) -> ClearMLTask:
    """Begin the task of a run, or go on with that of a resumed run.

    Raises ClearMLUnavailableError where ClearML cannot be used, and SqueezeError where its SDK is not
    installed.
    """
    require_sdk()
    options = config.logger
    offline = options.clearml_offline
    with_machine = options.auto_connect_frameworks
    file = run.path / STATE_FILE
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    resumed = bool(earlier.get("page")) and not offline  # an offline task is on no server
    credentials = None if offline else usable_credentials(config, reporter)
    task = ClearMLTask(reporter, credentials, offline=offline)
    task.start(
        project_name=options.project_name,
        task_name=options.task_name or run.name,
        tags=list(options.clearml_tags) or None,
        continue_last_task=earlier["task_id"] if resumed else False,
        # The memory of the SDK's own process would say nothing about the training.
        auto_resource_monitoring={"report_global_mem_used": True} if with_machine else False,
    )
    task.call("set_initial_iteration", offset=0)
    if with_machine and not running_on_agent():
        installed = sorted(f"{d.name}=={d.version}" for d in distributions())
        packages = [package for package in installed if not package.startswith("squeeze-cli==")]
        record_source(task, present_source(), shlex.join(sys.argv[1:]), packages)
    state = {"task_id": task.id, "page": None if offline else task.page}
    write_text_atomically(file, json.dumps(state, indent=2) + "\n")
    reporter.say(f"ClearML task {task.id}: {'offline' if offline else task.page}")
    return task


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
    answer = task.finish("close", status=record.status, archive=str(archive))
    if isinstance(answer, str):
        reporter.warn(f"ClearML did not get all of this run ({answer}): {run.path} is complete.")
    elif config.logger.clearml_offline:
        reporter.say(
            f'ClearML session: {archive}\nImport it:  python -c "from clearml import Task; '
            f"Task.import_offline_session('{archive}')\""
        )


def publish_run(
    task: ClearMLTask, config: ExperimentConfig, run: RunFolder, record: RunRecord
) -> None:
    """Report results, figures, codes and the best checkpoint, as far as the run has them."""
    rows: list[list[str | float | None]] = [
        [split, measured.iou, measured.accuracy, measured.loss]
        for split, measured in record.metrics
        if measured is not None
    ]
    if rows:
        table = [["split", "iou", "accuracy", "loss"], *rows]
        task.call("report_table", title="results", series="metrics", iteration=0, table_plot=table)
    for name, value in record.metrics.test or ():
        if isinstance(value, (int, float)):
            task.call("report_single_value", name=f"test/{name}", value=float(value))
    for image in sorted(run.figures_folder.glob("*.png")):
        path = str(image.resolve())
        task.call("report_image", title="figures", series=image.stem, iteration=0, local_path=path)
    files = [run.config_file, run.record_file, run.prior_file]
    files += sorted(run.codes_folder.glob("[!.]*"))
    best = run.best_checkpoint
    if best.is_file() and config.logger.clearml_offline:  # a model would only be a path there
        files.append(best)
    elif best.is_file():
        path = str(best.resolve())
        task.send(
            "model", name=f"{run.name} best", path=path, design=config.model_dump(mode="json")
        )
    for file in files:
        if file.is_file():
            name, path = file.relative_to(run.path).as_posix(), str(file.resolve())
            task.call("upload_artifact", name=name, artifact_object=path, auto_pickle=False)
