"""The ClearML task of a run: how it begins, and what it gets when the run ends."""

from __future__ import annotations

import json
import shlex
import sys
from importlib.metadata import distributions

from squeeze_cli.config.record import RunRecord
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.files import write_text_atomically
from squeeze_cli.runs import RunFolder
from squeeze_cli.trackers.clearml_task import (
    ClearMLTask,
    ClearMLUnavailableError,
    running_on_agent,
    usable_credentials,
)
from squeeze_cli.trackers.remote import present_source, record_source


def start_task(config: ExperimentConfig, run: RunFolder, reporter: Reporter) -> ClearMLTask:
    """Begin the task of a run, or go on with that of a resumed run.

    Raises ClearMLUnavailableError where ClearML cannot be used, and SqueezeError where its SDK is not
    installed.
    """
    options = config.logger
    offline = options.clearml_offline
    with_machine = options.auto_connect_frameworks
    file = run.path / "clearml.json"
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    resumed = bool(earlier.get("page")) and not offline  # an offline task is on no server
    task = ClearMLTask(reporter, usable_credentials(config, reporter), offline=offline)
    task.start(
        "init",
        project_name=options.project_name,
        task_name=options.task_name or run.name,
        tags=list(options.clearml_tags) or None,
        continue_last_task=earlier["task_id"] if resumed else False,
        reuse_last_task_id=False,
        auto_connect_arg_parser=False,
        auto_connect_frameworks={"detect_repository": False},
        auto_connect_streams=False,
        # The memory of the SDK's own process would say nothing about the training.
        auto_resource_monitoring={"report_global_mem_used": True} if with_machine else False,
    )
    task.call("set_initial_iteration", offset=0)
    task.call("set_parameters_as_dict", dictionary=config.model_dump(mode="json"))
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
    report_results(task, run, record)
    upload_files(task, config, run)
    archive = run.path / "clearml-offline.zip"
    try:
        task.finish("close", status=record.status, archive=str(archive))
    except ClearMLUnavailableError as error:
        reporter.warn(f"ClearML did not get all of this run ({error}): {run.path} is complete.")
        return
    if config.logger.clearml_offline:
        reporter.say(
            f'ClearML session: {archive}\nImport it:  python -c "from clearml import Task; '
            f"Task.import_offline_session('{archive}')\""
        )


def report_results(task: ClearMLTask, run: RunFolder, record: RunRecord) -> None:
    """Report a table of the metrics, those of the test as single values, and the figures."""
    table: list[list[str | float | None]] = [["split", "iou", "accuracy", "loss"]]
    for split, measured in record.metrics:
        if measured is not None:
            table.append([split, measured.iou, measured.accuracy, measured.loss])
    if len(table) > 1:
        task.call("report_table", title="results", series="metrics", iteration=0, table_plot=table)
    for name, value in record.metrics.test or ():
        if isinstance(value, (int, float)):
            task.call("report_single_value", name=f"test/{name}", value=float(value))
    for image in sorted(run.figures_folder.glob("*.png")):
        path = str(image.resolve())
        task.call("report_image", title="figures", series=image.stem, iteration=0, local_path=path)


def upload_files(task: ClearMLTask, config: ExperimentConfig, run: RunFolder) -> None:
    """Upload configuration, record, codes, prior and best checkpoint, as far as the run has them."""
    files = [run.config_file, run.record_file, run.prior_file, *run.codes_folder.glob("[!.]*")]
    best = run.best_checkpoint
    if config.logger.clearml_offline:  # a model would only be a path there
        files.append(best)
    elif best.is_file():
        task.call("connect_configuration", configuration=config.model_dump(mode="json"))
        name, path = f"{run.name} best", str(best.resolve())
        task.call("update_output_model", model_path=path, model_name=name, auto_delete_file=False)
    for file in filter(lambda file: file.is_file(), files):
        name, path = file.relative_to(run.path).as_posix(), str(file.resolve())
        task.call("upload_artifact", name=name, artifact_object=path, auto_pickle=False)
