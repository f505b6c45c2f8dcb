"""What ClearML gets at the end of a run: results, tables, figures, codes and the best checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from squeeze_cli.config.record import RunRecord
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.config.yaml_files import to_mapping
from squeeze_cli.console import Reporter
from squeeze_cli.runs import RunFolder
from squeeze_cli.trackers import Trackers
from squeeze_cli.trackers.clearml import ClearMLLogger
from squeeze_cli.trackers.clearml_end import end_task, keep_offline_archive
from squeeze_cli.trackers.clearml_task import ClearMLSession

_TABLE_METRICS = ("iou", "accuracy", "loss")


def hand_over(
    trackers: Trackers,
    config: ExperimentConfig,
    run: RunFolder,
    record: RunRecord,
    reporter: Reporter,
) -> None:
    """Give ClearML the run's outputs and end its task; says so where it did not get them all."""
    session = trackers.clearml
    assert session is not None
    guarded = next(t for t in trackers.loggers if isinstance(t.inner, ClearMLLogger))

    def publish() -> None:
        if not guarded.failed:
            publish_run(guarded.inner, config, run, record)

    missed = end_task(session, reporter, record.status, publish)
    if missed:
        reporter.warn(f"ClearML did not get all of this run ({missed}): {run.path} has it whole.")
    elif config.logger.clearml_offline:
        _keep_archive(session, run, reporter)


def _keep_archive(session: ClearMLSession, run: RunFolder, reporter: Reporter) -> None:
    try:
        archive = keep_offline_archive(session, run)
    except OSError as error:
        reporter.warn(f"The ClearML session could not be moved to {run.path}: {error}.")
        return
    if archive is not None:
        reporter.say(
            f'ClearML session: {archive}\nImport it:  python -c "from clearml import Task; '
            f"Task.import_offline_session('{archive}')\""
        )


def publish_run(
    logger: ClearMLLogger, config: ExperimentConfig, run: RunFolder, record: RunRecord
) -> None:
    """Report what is there: an interrupted run has less than a finished one."""
    metrics = record.metrics.model_dump(exclude_none=True)
    rows = metrics_table(metrics)
    if len(rows) > 1:
        logger.log_table("results/metrics", rows)
    for name, value in (metrics.get("test") or {}).items():
        if isinstance(value, (int, float)):
            logger.log_value(f"test/{name}", value)
    for image in sorted((run.path / "figures").glob("*.png")):
        logger.log_figure(f"figures/{image.stem}", image)
    for name, path in run_files(run):
        logger.log_artifact(name, path)
    if run.best_checkpoint.is_file():
        logger.log_model(f"{run.name} best", run.best_checkpoint, to_mapping(config))


def run_files(run: RunFolder) -> Iterator[tuple[str, Path]]:
    """The files of a run that are uploaded, with the artifacts' names."""
    for path in (run.config_file, run.record_file, run.path / "prior.safetensors"):
        if path.is_file():
            yield path.name, path
    for path in sorted(run.codes_folder.glob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield f"codes/{path.name}", path


def metrics_table(metrics: Mapping[str, Any]) -> list[list[Any]]:
    """Rows of split, mean IoU, accuracy, loss; the first one holds the headings."""
    rows: list[list[Any]] = [["split", *_TABLE_METRICS]]
    for split in ("train", "val", "test"):
        values = metrics.get(split)
        if values:
            rows.append([split, *(values.get(name) for name in _TABLE_METRICS)])
    return rows
