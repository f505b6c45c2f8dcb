"""What `train` and `baseline` share: from flags to a run and its closing table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_cli.commands.output import make_reporter, print_json
from squeeze_cli.config.resolve import check_resumed, resolve_config
from squeeze_cli.config.schema import ExperimentConfig, Kind
from squeeze_cli.config.yaml_files import load_experiment, to_mapping, to_yaml
from squeeze_cli.console import Reporter
from squeeze_cli.errors import UsageError
from squeeze_cli.options import TRAIN_FLAGS
from squeeze_cli.runs import RunFolder, create_run, find_resumable


def run_command(kind: Kind, flags: Mapping[str, Any]) -> None:
    """Resolve the flags; then train, or with `--dry-run` say what would happen."""
    reporter = make_reporter(flags)
    values = {
        flag.target: flags[flag.parameter]
        for flag in TRAIN_FLAGS
        if ("." in flag.target or flag.target in ("name", "output_dir"))
        and flags.get(flag.parameter) is not None
    }
    if flags.get("resume"):
        run = find_resumable(Path(flags.get("output_dir") or "runs"), flags.get("name"))
        config = load_experiment(run.config_file, None)
        for name in ("config", "experiment", "overwrite"):
            if flags.get(name):
                raise UsageError(
                    f"--{name} means nothing with --resume: the run has its own configuration."
                )
        check_resumed(config, values)
        if config.kind != kind:
            raise UsageError(f"{run.path} is a {config.kind} run: resume it by its own command.")
    else:
        if flags.get("remote_queue"):  # an agent's task is a ClearML task
            values["logger.use_clearml"] = True
        source = flags.get("config")
        config = resolve_config(kind, values, source and str(source), flags.get("experiment"))
        run = None
    if flags.get("dry_run"):
        _print_plan(config, run, bool(flags.get("json")))
        return
    if flags.get("remote_queue"):
        _send_away(config, flags, reporter)
        return
    resume = run is not None
    run = run or create_run(config, overwrite=bool(flags.get("overwrite")))
    reporter.say(f"{'Resuming' if resume else 'Training'} {run.path}")

    with run.locked():
        from squeeze_cli.training.fit import fit_experiment

        record = fit_experiment(config, run, reporter, resume=resume)
    if flags.get("json"):
        print_json(record.model_dump(exclude_unset=True))
        return
    from squeeze_cli.reports.tables import result_table

    reporter.show(result_table(record))
    reporter.show(
        f"Run folder: {run.path}\nCompare:    squeeze compare {shlex.quote(config.output_dir)}"
    )


def _send_away(config: ExperimentConfig, flags: Mapping[str, Any], reporter: Reporter) -> None:
    """Let a ClearML agent run this very command; on the agent it runs as if without the flag."""
    if flags.get("resume"):
        raise UsageError("--resume works on a folder here: it means nothing with --remote-queue.")
    if config.logger.clearml_offline:
        raise UsageError("--remote-queue needs a server: leave --clearml-offline out.")
    from squeeze_cli.trackers.remote import send_to_queue

    sent = send_to_queue(config, flags["remote_queue"], sys.argv[1:], reporter)
    if flags.get("json"):
        print_json(sent)
    else:
        reporter.show(f"Sent to {sent['queue']}: {sent['page']}")


def _print_plan(config: ExperimentConfig, run: RunFolder | None, as_json: bool) -> None:
    if as_json:
        print_json(to_mapping(config))
        return
    sys.stdout.write(to_yaml(config))
    what = (
        f"resume {run.path}"
        if run
        else "train " + ("a baseline" if config.kind == "baseline" else config.quantizer.type)
    )
    data = "synthetic images" if config.data.dataset == "synthetic" else config.data.data_dir
    sys.stdout.write(
        f"# Would {what} on {config.model.backbone} features of {data} for "
        f"{config.training.epochs} epochs, in {config.output_dir}/. Nothing was done.\n"
    )
