"""From flags and a file to one valid configuration: defaults < file < flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.config.schema import ExperimentConfig, resolve_defaults, validate
from squeeze_cli.config.yaml_files import load_experiment
from squeeze_cli.errors import UsageError
from squeeze_cli.options import TRAIN_FLAGS, Flag
from squeeze_cli.trackers.sdk_environment import is_on

_FLAGS = {flag.parameter: flag for flag in TRAIN_FLAGS}
_CONFIG_PARAMETERS = [
    f.parameter for f in TRAIN_FLAGS if "." in f.target or f.target in ("name", "output_dir")
]


def resolve_config(kind: str, flags: Mapping[str, Any]) -> ExperimentConfig:
    """The configuration for `squeeze train` (`quantized`) or `squeeze baseline` (`baseline`).

    Args:
        kind: which of the two.
        flags: values by parameter name (`quantizer__type`), None where left out.

    Raises:
        UsageError: for a value, or a combination of values, that means nothing.
    """
    config = _base_config(kind, flags.get("config"), flags.get("experiment"))
    given = {p: flags[p] for p in _CONFIG_PARAMETERS if flags.get(p) is not None}
    for parameter, value in given.items():
        config = _with_value(config, _FLAGS[parameter].target, value)
    if flags.get("remote_queue"):  # an agent's task is a ClearML task
        config = _with_value(config, "logger.use_clearml", True)
    elif (
        config.logger.use_clearml
        and "logger__clearml_offline" not in given
        and is_on("CLEARML_OFFLINE_MODE", "TRAINS_OFFLINE_MODE")
    ):
        config = _with_value(config, "logger.clearml_offline", True)
    config = resolve_defaults(config)
    validate(config)
    _refuse_meaningless(config, given)
    return config


def check_resumed(stored: ExperimentConfig, flags: Mapping[str, Any]) -> None:
    """Raise UsageError where a flag asks a resumed run for something else than it was begun with."""
    for parameter in _CONFIG_PARAMETERS:
        value, target = flags.get(parameter), _FLAGS[parameter].target
        if value is None or target in ("name", "output_dir"):
            continue
        if _value_at(stored, target) != value:
            raise UsageError(
                f"{_spelling(_FLAGS[parameter])} {value} differs from the run's own "
                f"{_value_at(stored, target)}: leave it out to resume, or start another run."
            )
    for parameter in ("config", "experiment", "overwrite"):
        if flags.get(parameter):
            raise UsageError(
                f"--{parameter} means nothing with --resume: the run has its own configuration."
            )


def _base_config(kind: str, path: Path | None, experiment: str | None) -> ExperimentConfig:
    if path is None:
        if experiment is not None:
            raise UsageError(f"--experiment {experiment} needs the file: add --config FILE.")
        return ExperimentConfig(kind=kind)
    config = load_experiment(path, experiment)
    commands = {"quantized": "train", "baseline": "baseline"}
    if config.kind != kind and config.kind in commands:
        raise UsageError(
            f"This experiment is of kind {config.kind}: run it with "
            f"`squeeze {commands[config.kind]}`."
        )
    return config


def _with_value(config: ExperimentConfig, target: str, value: Any) -> ExperimentConfig:
    section, _, name = target.rpartition(".")
    if not section:
        return replace(config, **{name: value})
    return replace(config, **{section: replace(getattr(config, section), **{name: value})})


def _value_at(config: ExperimentConfig, target: str) -> Any:
    value: Any = config
    for part in target.split("."):
        value = getattr(value, part)
    return value


def _spelling(flag: Flag) -> str:
    return flag.spellings[0]


def _refuse_meaningless(config: ExperimentConfig, given: Mapping[str, Any]) -> None:
    """A flag that the chosen parts would ignore is a mistake; say which parts would take it."""
    entry = QUANTIZERS[config.quantizer.type]
    for parameter in given:
        flag = _FLAGS[parameter]
        section, _, name = flag.target.partition(".")
        if section == "quantizer" and name != "type" and name not in entry.options:
            takers = [q for q in QUANTIZERS if name in QUANTIZERS[q].options]
            raise UsageError(
                f"{_spelling(flag)} means nothing with --quantizer {config.quantizer.type}: "
                f"leave it out, or choose --quantizer {' or '.join(takers)}."
            )
    if config.data.dataset == "synthetic" and given.get("data__data_dir") is not None:
        raise UsageError(
            "--data-dir means nothing with --dataset synthetic, whose images are made on the fly: "
            "leave one of them out."
        )
    _refuse_untracked(config, given)
    if not config.data.use_cache and given.get("data__cache_dir") is not None:
        raise UsageError("--cache-dir means nothing with --no-cache: leave one of them out.")


def _refuse_untracked(config: ExperimentConfig, given: Mapping[str, Any]) -> None:
    """Flags for ClearML without ClearML would be ignored in silence."""
    only_clearml = ("project_name", "task_name", "clearml_tags", "clearml_offline",
                    "require_clearml", "credentials_file")  # fmt: skip
    for name in only_clearml:
        if given.get(f"logger__{name}") and not config.logger.use_clearml:
            flag = _spelling(_FLAGS[f"logger__{name}"])
            raise UsageError(f"{flag} means nothing without ClearML: add --use-clearml.")
