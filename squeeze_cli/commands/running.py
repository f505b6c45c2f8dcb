"""Training for `train` and `baseline`: from options to a run and its closing table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from squeeze_cli.commands.output import make_reporter, print_json
from squeeze_cli.commands.ranks import follow, hand_down, is_first
from squeeze_cli.config.resolve import check_resumed, resolve_config
from squeeze_cli.config.schema import ExperimentConfig, Kind
from squeeze_cli.config.yaml_files import load_experiment, to_yaml
from squeeze_cli.console import Reporter
from squeeze_cli.errors import UsageError
from squeeze_cli.options import RunOptions
from squeeze_cli.runs import RunFolder, create_run, find_resumable


def run_experiment(kind: Kind, values: Mapping[str, object], options: RunOptions) -> None:
    """Train an experiment, or with `--dry-run` print what would happen.

    Args:
        kind: Which command this is.
        values: What the command line sets of the configuration, by `section.field`.
        options: All other options.
    """
    reporter = make_reporter(options.quiet, options.verbose, options.no_progress)
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
    hand_down(config, run)
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
