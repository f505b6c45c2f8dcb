"""ClearML task of a run: trained on this machine, or sent to the queue of a ClearML agent."""

import json
import os
import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import squeeze_cli
from squeeze_cli.config.record import RunRecord
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError
from squeeze_cli.files import read_json, write_atomically
from squeeze_cli.runs import RunFolder
from squeeze_cli.trackers.clearml_task import AGENT_TASK, ClearMLTask, usable_credentials
from squeeze_cli.trackers.credentials import ClearMLUnavailableError

# The metrics in the table of results, if the run has them.
TABLE_METRICS = ("iou", "accuracy", "mse", "cosine", "sqnr_db", "loss")


def start_task(config: ExperimentConfig, run: RunFolder, reporter: Reporter) -> ClearMLTask:
    """Start the task of a new run, or continue the task of a resumed run."""
    options = config.logger
    offline = options.clearml_offline
    with_machine = options.auto_connect_frameworks
    file = run.path / "clearml.json"
    try:
        earlier = read_json(file) if file.exists() else {}
    except ValueError as error:
        raise ClearMLUnavailableError(f"{file} is damaged ({error})", "delete it") from None
    resumed = bool(earlier.get("page")) and not offline  # an offline task is on no server
    task = ClearMLTask(reporter, usable_credentials(config, reporter), offline=offline)
    task.start(
        "init",
        project_name=options.project_name,
        task_name=options.task_name or run.name,
        tags=list(options.clearml_tags) or None,
        continue_last_task=str(earlier.get("task_id")) if resumed else False,
        reuse_last_task_id=False,
        auto_connect_arg_parser=False,
        auto_connect_frameworks={"detect_repository": False},
        auto_connect_streams=False,
        # The SDK's own process does not train, so the memory of the whole machine is reported.
        auto_resource_monitoring={"report_global_mem_used": True} if with_machine else False,
    )
    task.call("set_initial_iteration", offset=0)
    task.call("set_parameters_as_dict", dictionary=config.model_dump(mode="json"))
    if with_machine and AGENT_TASK not in os.environ:
        others = (each for each in distributions() if each.name != "squeeze-cli")
        packages = sorted(f"{each.name}=={each.version}" for each in others)
        record_source(task, present_source(), shlex.join(sys.argv[1:]), packages)
    page = None if offline else task.page
    write_atomically(file, json.dumps({"task_id": task.id, "page": page}, indent=2) + "\n")
    reporter.say(f"ClearML task {task.id}: {page or 'offline'}")
    return task


def end_task(
    task: ClearMLTask, config: ExperimentConfig, run: RunFolder, record: RunRecord
) -> None:
    """Report the run's results and files, and end the task; warn if some did not reach the server."""
    measured = {split: metrics for split, metrics in record.metrics if metrics is not None}
    if measured:
        known = dict(next(iter(measured.values())))
        names = [name for name in TABLE_METRICS if known[name] is not None]
        rows = [[split, *(getattr(m, name) for name in names)] for split, m in measured.items()]
        table = [["split", *names], *rows]
        task.call("report_table", title="results", series="metrics", iteration=0, table_plot=table)
    for name, value in record.metrics.test or ():
        if isinstance(value, (int, float)):
            task.call("report_single_value", name=f"test/{name}", value=float(value))
    for image in sorted(run.figures_folder.glob("*.png")):
        path = str(image.resolve())
        task.call("report_image", title="figures", series=image.stem, iteration=0, local_path=path)
    files = [run.config_file, run.record_file, run.prior_file, *run.codes_folder.glob("[!.]*")]
    best = run.best_checkpoint
    if config.logger.clearml_offline:  # an offline session would store only the path of a model
        files.append(best)
    elif best.is_file():
        design = config.model_dump(mode="json")
        task.call("upload_model", name=f"{run.name} best", path=str(best.resolve()), design=design)
    for file in filter(lambda file: file.is_file(), files):
        name, path = file.relative_to(run.path).as_posix(), str(file.resolve())
        task.call("upload_artifact", name=name, artifact_object=path, auto_pickle=False)
    archive = run.path / "clearml-offline.zip"
    try:
        task.finish("close", status=record.status, archive=str(archive))
    except ClearMLUnavailableError as error:
        task.reporter.warn(
            f"ClearML did not receive the whole run ({error}); {run.path} has all of it."
        )
        return
    if config.logger.clearml_offline:
        task.reporter.say(f"ClearML session: {archive}, for clearml.Task.import_offline_session")


@dataclass(frozen=True)
class Source:
    """Repository, commit and uncommitted changes of squeeze; empty for an installed package."""

    repository: str = ""
    branch: str = ""
    commit: str = ""
    diff: str = ""

    @property
    def requirement(self) -> str:
        """Requirement for pip; a repository `git@host:path` is written as a URL."""
        if not self.repository:
            return f"squeeze-cli[clearml]=={squeeze_cli.__version__}"
        url = re.sub(r"^([\w.-]+@[\w.-]+):(?!/)", r"ssh://\1/", self.repository)
        return f"squeeze-cli[clearml] @ git+{url}@{self.commit}"


def send_to_queue(
    config: ExperimentConfig, queue: str, arguments: Sequence[str], reporter: Reporter
) -> dict[str, str]:
    """Send this command to a ClearML agent's queue; return the task's id, page, queue and command."""
    options = config.logger
    name = options.task_name or config.name or "squeeze"
    command = remote_command(arguments)
    try:
        credentials = usable_credentials(config, reporter)
        source = find_source(reporter)
        task = ClearMLTask(reporter, credentials)
        task.start(
            "create", project_name=options.project_name, task_name=name, detect_repository=False
        )
        task.call("add_tags", tags=list(options.clearml_tags))
        task.call("set_parameters_as_dict", dictionary=config.model_dump(mode="json"))
        record_source(task, source, command)
        task.finish("enqueue", task=task.id, queue_name=queue)
    except ClearMLUnavailableError as error:
        raise SqueezeError(
            f"{error}. --remote-queue needs a ClearML server where the queue {queue!r} exists and an "
            "agent serves it."
        ) from None
    return {"task_id": task.id, "page": task.page, "queue": queue, "command": command}


def remote_command(arguments: Sequence[str]) -> str:
    """Return the agent's arguments: without options of this machine, and with `--use-clearml`."""
    local = ArgumentParser(add_help=False, allow_abbrev=False)
    local.add_argument("--remote-queue", "--remote_queue")
    local.add_argument("--credentials", "--credentials-file", "--credentials_file")
    _, kept = local.parse_known_args(arguments)
    if not {"--use-clearml", "--use_clearml"} & set(kept):
        kept.append("--use-clearml")
    return shlex.join(kept)


def find_source(reporter: Reporter) -> Source:
    """Return the current source for an agent; SqueezeError if the checkout has no remote to clone."""
    source = present_source()
    if source.commit and not source.repository:
        raise SqueezeError(
            "--remote-queue: this checkout has no remote 'origin' that an agent could clone: "
            "`git remote add origin URL` and push."
        )
    folder, commit = Path(squeeze_cli.__file__).parent, source.commit
    if commit and not run_git(folder, "branch", "--remotes", "--contains", commit):
        reporter.warn(f"The commit {commit[:12]} is on no remote branch: push it for the agent.")
    return source


def present_source() -> Source:
    """Return the source of the running squeeze."""
    folder = Path(squeeze_cli.__file__).resolve().parent
    if run_git(folder, "rev-parse", "--show-toplevel").strip() != str(folder.parent):
        return Source()
    origin = run_git(folder, "remote", "get-url", "origin").strip()
    return Source(
        # User name and token are removed, because others can read them in the task.
        repository=re.sub(r"^(https?://)[^/]*@", r"\1", origin),
        branch=run_git(folder, "rev-parse", "--abbrev-ref", "HEAD").strip(),
        commit=run_git(folder, "rev-parse", "HEAD").strip(),
        diff=run_git(folder, "diff", "HEAD", ":/"),
    )


def record_source(
    task: ClearMLTask, source: Source, command: str, packages: Sequence[str] = ()
) -> None:
    """Record source, command and packages in a task, so that an agent can run `squeeze COMMAND`."""
    script = {"working_dir": ".", "entry_point": f"-m squeeze_cli {command}"}
    task.call("set_script", **vars(source), **script)
    task.call("set_packages", packages=[source.requirement, *packages])


def run_git(folder: Path, *arguments: str) -> str:
    """Return the output of git in `folder`, or an empty text if it fails or is not installed."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
