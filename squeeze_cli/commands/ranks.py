"""Ranks: the processes of one training, of which the first owns the run's folder and speaks.

Lightning starts this command again for every further device, or torchrun or SLURM has started it
for all of them. The variables read here are those that Lightning goes by. It needs no torch, so
that usage errors come quickly.
"""

from __future__ import annotations

import os
from pathlib import Path

from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.errors import UsageError
from squeeze_cli.runs import RunFolder

# Holds the run's folder for the processes that Lightning starts.
RUN_VARIABLE = "SQUEEZE_RUN_FOLDER"


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


def hand_down(config: ExperimentConfig, run: RunFolder) -> None:
    """Let the processes that Lightning starts for other devices know the run's folder."""
    if are_several(config):
        os.environ[RUN_VARIABLE] = str(run.path)


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
