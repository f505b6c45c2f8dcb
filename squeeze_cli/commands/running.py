"""Training for `train` and `baseline`: from options to a run and its closing table.

With several devices, Lightning starts this command again for every further one, or torchrun or
SLURM has started it for all of them. The process of rank 0 owns the run's folder and speaks.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from squeeze_cli.config.resolve import check_resumed, resolve_config
from squeeze_cli.config.schema import ExperimentConfig, Kind
from squeeze_cli.config.yaml_files import load_experiment, to_yaml
from squeeze_cli.console import Reporter, print_json
from squeeze_cli.errors import UsageError
from squeeze_cli.options import RunOptions
from squeeze_cli.runs import RunFolder, create_run, find_resumable

# Holds the run's folder for the processes that Lightning starts.
RUN_VARIABLE = "SQUEEZE_RUN_FOLDER"


def run_experiment(kind: Kind, values: Mapping[str, object], options: RunOptions) -> None:
    """Train an experiment, or with `--dry-run` print what would happen.

    Args:
        kind: Which command this is.
        values: What the command line sets of the configuration, by `section.field`.
        options: All other options.
    """
    reporter = Reporter(options.quiet, options.verbose, not options.no_progress)
    run = None
    if options.resume:
        run, config = _find_stopped(kind, values, options)
    else:
        if options.remote_queue:  # the task of an agent needs ClearML and its server
            values = {"logger.clearml_offline": False, **values, "logger.use_clearml": True}
        config = resolve_config(kind, values, options.config, options.experiment)
    if options.dry_run:
        _print_plan(config, run, options.json)
        return
    if options.remote_queue:
        _send_away(config, options, reporter)
        return
    if not is_first(config):
        follow(config, resume=options.resume)
        return
    run = run or create_run(config, overwrite=options.overwrite)
    if are_several(config):
        os.environ[RUN_VARIABLE] = str(run.path)
    reporter.say(f"{'Resuming' if options.resume else 'Training'} {run.path}")

    with run.locked():
        from squeeze_cli.training.fit import fit_experiment

        record = fit_experiment(config, run, reporter, resume=options.resume)
    if options.json:
        print_json(record.model_dump(exclude_unset=True))
        return
    from squeeze_cli.reports.tables import result_table

    reporter.show(result_table(record))
    reporter.show(
        f"Run folder: {run.path}\nCompare:    squeeze compare {shlex.quote(config.output_dir)}"
    )


def _find_stopped(
    kind: Kind, values: Mapping[str, object], options: RunOptions
) -> tuple[RunFolder, ExperimentConfig]:
    """Return the run to resume and its own configuration, which no option may contradict."""
    for option in ("config", "experiment", "overwrite", "remote_queue"):
        if getattr(options, option):
            raise UsageError(
                f"--{option.replace('_', '-')} means nothing with --resume, which continues a run "
                "of this machine with its own configuration: leave it out."
            )
    name = str(values["name"]) if "name" in values else None
    run = find_resumable(Path(str(values.get("output_dir", "runs"))), name)
    config = load_experiment(run.config_file, None)
    check_resumed(config, values)
    if config.kind != kind:
        raise UsageError(f"{run.path} is a {config.kind} run: resume it by its own command.")
    return run, config


def _send_away(config: ExperimentConfig, options: RunOptions, reporter: Reporter) -> None:
    """Let a ClearML agent run this very command; the agent runs it as if without the option."""
    if config.logger.clearml_offline:
        raise UsageError("--remote-queue needs a server: leave --clearml-offline out.")
    from squeeze_cli.trackers.remote import send_to_queue

    assert options.remote_queue is not None
    sent = send_to_queue(config, options.remote_queue, sys.argv[1:], reporter)
    if options.json:
        print_json(sent)
    else:
        reporter.show(f"Sent to {sent['queue']}: {sent['page']}")


def _print_plan(config: ExperimentConfig, run: RunFolder | None, as_json: bool) -> None:
    if as_json:
        print_json(config.model_dump(mode="json"))
        return
    sys.stdout.write(to_yaml(config))
    if run is not None:
        what = f"resume {run.path}"
    else:
        what = f"train {'a baseline' if config.kind == 'baseline' else config.quantizer.type}"
    data = "synthetic images" if config.data.dataset == "synthetic" else config.data.data_dir
    sys.stdout.write(
        f"# Would {what} on {config.model.backbone} features of {data} for "
        f"{config.training.epochs} epochs, in {config.output_dir}/. Nothing was done.\n"
    )


def are_several(config: ExperimentConfig) -> bool:
    """Whether more than one process may train."""
    return config.training.devices != 1 or config.training.num_nodes != 1


def is_first(config: ExperimentConfig) -> bool:
    """Whether this process has rank 0. A training on one device has, whatever the variables say.

    Raises UsageError where torchrun, SLURM or the user starts the processes and no name is given:
    they could not agree on an automatic one.
    """
    environment = os.environ
    if not are_several(config):
        return True
    interactive = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")
    by_slurm = "SLURM_NTASKS" in environment and not interactive
    by_torchrun = "TORCHELASTIC_RUN_ID" in environment
    by_lightning = RUN_VARIABLE in environment
    external = by_slurm or by_torchrun or config.training.num_nodes > 1
    if external and not by_lightning and config.name is None:
        raise UsageError("Several processes that train together need one --name.")
    if by_torchrun:
        return environment.get("RANK", "0") == "0"
    if by_slurm:
        return environment.get("SLURM_PROCID", "0") == "0"
    return all(int(environment.get(name, 0)) == 0 for name in ("NODE_RANK", "LOCAL_RANK"))


def follow(config: ExperimentConfig, *, resume: bool) -> None:
    """Train with the first process, in silence and in the folder that it has made."""
    from rich.console import Console

    from squeeze_cli.training.fit import follow_experiment

    place = os.environ.get(RUN_VARIABLE) or Path(config.output_dir) / str(config.name)
    silent = Reporter(quiet=True, progress=False, out=Console(quiet=True), err=Console(quiet=True))
    try:
        follow_experiment(config, RunFolder(Path(place)), silent, resume=resume)
    except KeyboardInterrupt:  # the first process says so
        raise SystemExit(130) from None
