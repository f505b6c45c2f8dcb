"""`squeeze train` and `squeeze baseline`: from options to a run and its closing table.

With several devices, Lightning starts this command again for every further device, or torchrun or
SLURM starts it for all devices. Only the process of rank 0 writes the run's folder and prints.
"""

import functools
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from squeeze_cli.config.resolve import check_resumed, load_run_config, resolve_config, to_yaml
from squeeze_cli.config.schema import ExperimentConfig, Kind
from squeeze_cli.console import Reporter, print_json, print_text
from squeeze_cli.errors import UsageError
from squeeze_cli.options import OutputOptions, option, switch, with_options

if TYPE_CHECKING:  # to import the record's models takes a fiftieth of the time of `--help`
    from squeeze_cli.runs import RunFolder

EXAMPLES = (
    "squeeze train --config quickstart",
    "squeeze train --quantizer lfq --model efficientnet-lite0 --data-dir data",
    "squeeze train --config examples.yaml --experiment rvq --epochs 5",
    "squeeze train --features features.npy --feature-names names.txt",
    "squeeze baseline --config quickstart-baseline",
    "squeeze baseline --model efficientnet-lite0 --data-dir data --epochs 30",
)
# Environment variable that passes the run's folder to the processes that Lightning starts.
RUN_VARIABLE = "SQUEEZE_RUN_FOLDER"
# Fields that are refused without a quantizer.
_OF_QUANTIZERS = ("data.features", "data.feature_names", "model.distill", "model.distill_weight",
                  "model.reconstruction_weight", "model.cosine_weight")  # fmt: skip
_run, _switch = (functools.partial(kind, panel="Run") for kind in (option, switch))


@dataclass(frozen=True)
class RunOptions:
    """Options that are not a part of the configuration."""

    config: Annotated[
        str | None, _run("YAML file, or the name of an example; options take precedence.", "FILE")
    ] = None
    experiment: Annotated[str | None, _run("Name of the experiment in the file.", "NAME")] = None
    overwrite: Annotated[bool, _switch("--overwrite", "Replace a run of the same name.")] = False
    resume: Annotated[
        bool, _switch("--resume", "Continue a stopped run (--name, or the only one).")
    ] = False
    dry_run: Annotated[
        bool, _switch("--dry-run", "Print the resolved configuration and do nothing.")
    ] = False
    remote_queue: Annotated[
        str | None, option("Run this command on an agent of this queue.", "QUEUE", panel="Tracking")
    ] = None


@with_options("quantizer", "model", "training", "data", "logger", "")
def train(values: Mapping[str, object], options: RunOptions, output: OutputOptions) -> None:
    """Train a quantizer, and with masks a segmentation head, on frozen features.

    The best epoch is tested on the test split. Everything is written to runs/NAME/.

    A switch is turned off by --no- before its name, such as --no-cache.
    """
    run_experiment("quantized", values, options, output)


@with_options("model", "training", "data", "logger", "", hidden=_OF_QUANTIZERS)
def baseline(values: Mapping[str, object], options: RunOptions, output: OutputOptions) -> None:
    """Train a segmentation head on unquantized features, to compare quantizers with.

    A switch is turned off by --no- before its name, such as --no-cache.
    """
    run_experiment("baseline", values, options, output)


def run_experiment(
    kind: Kind, values: Mapping[str, object], options: RunOptions, output: OutputOptions
) -> None:
    """Train an experiment, or with `--dry-run` print its configuration.

    `values` are the configuration's values on the command line, by `section.field`.
    """
    run = None
    if options.resume:
        run, config = _find_stopped(kind, values, options)
    else:
        if options.remote_queue:  # an agent's task needs ClearML and its server
            values = {"logger.clearml_offline": False, **values, "logger.use_clearml": True}
        config = resolve_config(kind, values, options.config, options.experiment)
    several = config.training.devices != 1 or config.training.num_nodes != 1
    if options.dry_run:
        _print_plan(config, run, output.json)
        return
    if options.remote_queue:
        _send_away(config, options.remote_queue, output)
        return
    if several and not is_first(config, run):
        _follow(config, run, options.resume)
        return
    from squeeze_cli.runs import create_run

    run = run or create_run(config, options.overwrite)
    if several:
        os.environ[RUN_VARIABLE] = str(run.path)
    reporter = output.reporter()
    reporter.say(f"{'Resuming' if options.resume else 'Training'} {run.path}")
    try:
        with run.training():
            from squeeze_cli.reports.tables import result_table
            from squeeze_cli.training.fit import approach_target, fit_experiment

            record = fit_experiment(config, run, reporter, resume=options.resume)
        record = approach_target(config, run, record, reporter)
    except (KeyboardInterrupt, SystemExit):
        if run.record_file.exists():
            reporter.say(f"Stopped: --resume --name {shlex.quote(run.name)} continues.")
        raise
    output.show(record.model_dump(exclude_unset=True), result_table(record))
    if not output.json:
        compare = f"squeeze compare {shlex.quote(config.output_dir)}"
        reporter.show(f"Run folder: {run.path}\nCompare:    {compare}")


def _find_stopped(
    kind: Kind, values: Mapping[str, object], options: RunOptions
) -> tuple["RunFolder", ExperimentConfig]:
    """Return the run to resume and its configuration; options may give new paths of its data."""
    for other in ("config", "experiment", "overwrite", "remote_queue"):
        if getattr(options, other):
            raise UsageError(
                f"--{other.replace('_', '-')} has no effect with --resume, which continues a run "
                "of this machine with its own configuration: leave it out."
            )
    name = str(values["name"]) if "name" in values else None
    from squeeze_cli.runs import find_resumable

    run = find_resumable(Path(str(values.get("output_dir", "runs"))), name)
    config = load_run_config(run.config_file, run.read_record().settings)
    config = check_resumed(config, values)
    if config.kind != kind:
        raise UsageError(f"{run.path} is a {config.kind} run: resume it by its own command.")
    return run, config


def _print_plan(config: ExperimentConfig, run: "RunFolder | None", as_json: bool) -> None:
    if as_json:
        print_json(config.model_dump(mode="json"))
        return
    action = f"train {'a baseline' if config.kind == 'baseline' else config.quantizer.type}"
    source = f"features of {config.data.place}"
    if not config.data.has_features:
        source = f"{config.model.backbone} {source}"
    print_text(
        f"{to_yaml(config)}# Would {f'resume {run.path}' if run else action} on {source} for "
        f"{config.training.epochs} epochs, in {config.output_dir}/. Nothing was done.\n"
    )


def _send_away(config: ExperimentConfig, queue: str, output: OutputOptions) -> None:
    """Send this command to a ClearML agent, which runs it as if without `--remote-queue`."""
    if config.logger.clearml_offline:
        raise UsageError("--remote-queue needs a server: leave --clearml-offline out.")
    from squeeze_cli.trackers.clearml import send_to_queue

    sent = send_to_queue(config, queue, sys.argv[1:], output.reporter())
    output.show(sent, f"Sent to {sent['queue']}: {sent['page']}")


def is_first(config: ExperimentConfig, run: "RunFolder | None") -> bool:
    """Return whether this one of several processes has rank 0.

    Raises UsageError where torchrun, SLURM or the user starts the processes, and neither a name is
    given nor a run is resumed, because each process would choose its own automatic name.
    """
    from lightning.pytorch.plugins.environments import (  # type: ignore[attr-defined]
        LightningEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )

    launchers = (TorchElasticEnvironment, SLURMEnvironment)
    launcher = next((kind() for kind in launchers if kind.detect()), None)
    by_others = launcher or config.training.num_nodes > 1
    if by_others and not (config.name or run or RUN_VARIABLE in os.environ):
        raise UsageError("Several processes that train together need one --name.")
    if launcher:
        return launcher.global_rank() == 0
    return LightningEnvironment().node_rank() == LightningEnvironment().local_rank() == 0


def _follow(config: ExperimentConfig, run: "RunFolder | None", resume: bool) -> None:
    """Train as a process of another rank: without output, in the folder of the first process."""
    from rich.console import Console

    from squeeze_cli.runs import RunFolder
    from squeeze_cli.training.experiment import set_up
    from squeeze_cli.training.fit import train as fit

    named = run.path if run else Path(config.output_dir) / str(config.name)
    folder = os.environ.get(RUN_VARIABLE, named)
    silent = Reporter(quiet=True, err=Console(quiet=True))
    try:
        fit(set_up(config, silent), RunFolder(Path(folder)), silent, resume=resume)
    except KeyboardInterrupt:  # the first process prints the message
        raise SystemExit(130) from None
