"""From options and a file to one valid configuration: defaults < file < options."""

from __future__ import annotations

import os
from collections.abc import Mapping

from squeeze_cli.config.defaults import CODEBOOK_SIZE
from squeeze_cli.config.parts import BACKBONES, QUANTIZERS
from squeeze_cli.config.schema import ExperimentConfig, Kind, option_of
from squeeze_cli.config.validation import check_together, parse, refuse_meaningless
from squeeze_cli.config.yaml_files import find_experiment
from squeeze_cli.errors import UsageError


def with_values(config: ExperimentConfig, values: Mapping[str, object]) -> ExperimentConfig:
    """Return the configuration with other values, by `section.field` or `field`, validated.

    Raises UsageError, naming the option, for a value that cannot be.
    """
    mapping = config.model_dump()
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (mapping[section] if section else mapping)[name] = value
    return parse(mapping, as_flags=True)


def resolve_config(
    kind: Kind,
    values: Mapping[str, object],
    source: str | ExperimentConfig | None = None,
    experiment: str | None = None,
) -> ExperimentConfig:
    """Return the configuration for `squeeze train` (`quantized`) or `squeeze baseline` (`baseline`).

    Args:
        kind: Which of the two.
        values: What the command line gives, by `section.field`.
        source: A YAML file, the name of an example that comes with squeeze, or a configuration.
        experiment: Which experiment of the file.

    Raises:
        UsageError: For a value, or a combination of values, that means nothing.
    """
    if isinstance(source, str):
        config = find_experiment(source, experiment)
    elif experiment is not None:
        raise UsageError(f"--experiment {experiment} needs the file: add --config FILE.")
    else:
        config = source or ExperimentConfig(kind=kind)
    if config.kind != kind:
        command = "train" if config.kind == "quantized" else "baseline"
        raise UsageError(
            f"This experiment is of kind {config.kind}: run it with `squeeze {command}`."
        )
    config = with_values(config, values)
    if config.logger.use_clearml and "logger.clearml_offline" not in values:
        offline = switched_on("CLEARML_OFFLINE_MODE", "TRAINS_OFFLINE_MODE")
        config = with_values(config, {"logger.clearml_offline": True}) if offline else config
    config = resolve_defaults(config)
    check_together(config)
    refuse_meaningless(config, values)
    return config


def resolve_defaults(config: ExperimentConfig) -> ExperimentConfig:
    """Return the configuration with what other choices decide: codebook size, classes and rate."""
    quantizer, model = config.quantizer, config.model
    chosen = "none" if config.kind == "baseline" else quantizer.type
    values: dict[str, object] = {"quantizer.type": chosen}
    defaults = {"codebook_size": CODEBOOK_SIZE, "encoder_lr_factor": 1.0}
    for name, value in {**defaults, **QUANTIZERS[chosen].defaults}.items():
        if getattr(quantizer, name) is None:
            values[f"quantizer.{name}"] = value
    if model.num_classes is None:
        values["model.num_classes"] = BACKBONES[model.backbone].defaults["num_classes"]
    return with_values(config, values)


def check_resumed(stored: ExperimentConfig, values: Mapping[str, object]) -> None:
    """Raise UsageError where an option asks a resumed run for something else than it began with."""
    asked = with_values(stored, values)
    for key in values:
        section, _, name = key.rpartition(".")
        if section:  # the others are the run's name and place
            own, other = (getattr(getattr(c, section), name) for c in (stored, asked))
            if own != other:
                raise UsageError(
                    f"{option_of(key)} {other} differs from the run's own {own}: leave it out to "
                    "resume, or start another run."
                )


def switched_on(*names: str, default: bool = False) -> bool:
    """Return what the first environment variable that is set says, as ClearML's SDK reads it."""
    for name in names:
        if given := os.environ.get(name, "").strip().lower():
            return given not in ("0", "false", "no", "off", "n", "f")
    return default
