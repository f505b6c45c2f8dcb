"""From options and a file to one valid configuration: defaults < file < options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod

from squeeze_cli.config.defaults import CODEBOOK_SIZE, TRIMAP_CLASSES
from squeeze_cli.config.fields import parse, spelling
from squeeze_cli.config.parts import BACKBONES, QUANTIZERS
from squeeze_cli.config.schema import ExperimentConfig, Kind, field_of
from squeeze_cli.config.yaml_files import find_experiment
from squeeze_cli.errors import UsageError

_CLEARML_ONLY = (
    "logger.project_name", "logger.task_name", "logger.clearml_tags", "logger.clearml_offline",
    "logger.require_clearml", "logger.credentials_file",
)  # fmt: skip


def with_values(config: ExperimentConfig, values: Mapping[str, object]) -> ExperimentConfig:
    """Return the configuration with other values, by `section.field` or `field`, validated.

    Raises UsageError, naming the option, for a value that cannot be.
    """
    mapping = config.model_dump()
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (mapping[section] if section else mapping)[name] = value
    return parse(ExperimentConfig, mapping, as_flags=True)


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
    if isinstance(source, ExperimentConfig):
        config = source
    elif source is not None:
        config = find_experiment(source, experiment)
        if config.kind != kind:
            command = "train" if config.kind == "quantized" else "baseline"
            raise UsageError(
                f"This experiment is of kind {config.kind}: run it with `squeeze {command}`."
            )
    elif experiment is not None:
        raise UsageError(f"--experiment {experiment} needs the file: add --config FILE.")
    else:
        config = ExperimentConfig(kind=kind)
    config = with_values(config, values)
    if config.logger.use_clearml and "logger.clearml_offline" not in values:
        offline = switched_on("CLEARML_OFFLINE_MODE", "TRAINS_OFFLINE_MODE")
        config = with_values(config, {"logger.clearml_offline": True}) if offline else config
    config = resolve_defaults(config)
    validate(config)
    _refuse_meaningless(config, values)
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


def validate(config: ExperimentConfig) -> None:
    """Raise UsageError, naming the fix, for resolved values that do not go together.

    Sizes that only the backbone knows are checked when it is built.
    """
    quantizer, model, logger = config.quantizer, config.model, config.logger
    size = quantizer.codebook_size or CODEBOOK_SIZE
    if quantizer.type == "lfq" and size & (size - 1):
        below = 2 ** (size.bit_length() - 1)
        raise UsageError(
            f"--codebook-size {size} cannot be used with --quantizer lfq, which spends one bit per "
            f"dimension: use a power of two, {below} or {2 * below}."
        )
    if (codes := prod(quantizer.levels)) > 2**20:
        raise UsageError(f"--levels gives {codes} codes: their product must not pass {2**20}.")
    if not model.freeze_backbone:
        raise UsageError(
            "freeze_backbone: false is not supported, because squeeze works on frozen features; "
            "unfreeze_last_layer: true trains the last layer."
        )
    weights = model.class_weights
    if weights and len(weights) not in (TRIMAP_CLASSES, model.num_classes):
        raise UsageError(
            f"--class-weights gives {len(weights)} weights: give one for each of the "
            f"{TRIMAP_CLASSES} trimap classes, e.g. 1,1,2, or for each of the "
            f"{model.num_classes} outputs."
        )
    if weights and not any(weights):
        raise UsageError("--class-weights must not be all 0, e.g. 1,1,2.")
    if logger.use_clearml and logger.clearml_offline and logger.require_clearml:
        raise UsageError(
            "--clearml-offline needs no server, --require-clearml one: leave one of them out."
        )


def check_resumed(stored: ExperimentConfig, values: Mapping[str, object]) -> None:
    """Raise UsageError where an option asks a resumed run for something else than it began with."""
    asked = with_values(stored, values)
    for key in values:
        section, _, name = key.rpartition(".")
        if not section:  # the run's name and place
            continue
        own, other = (getattr(getattr(c, section), name) for c in (stored, asked))
        if own != other:
            raise UsageError(
                f"{option_of(key)} {other} differs from the run's own {own}: leave it out to "
                "resume, or start another run."
            )


def option_of(key: str) -> str:
    """Return the option that sets the field `section.field`."""
    _, name, field = field_of(key)
    return spelling(name, field)


def _refuse_meaningless(config: ExperimentConfig, values: Mapping[str, object]) -> None:
    """Refuse options that the chosen parts would ignore, and name the parts that take them."""
    chosen = config.quantizer.type
    for key, value in values.items():
        section, _, name = key.partition(".")
        if section == "quantizer" and name not in {"type", *QUANTIZERS[chosen].options}:
            takers = [each for each in QUANTIZERS if name in QUANTIZERS[each].options]
            raise UsageError(
                f"{option_of(key)} means nothing with --quantizer {chosen}: leave it out, or "
                f"choose --quantizer {' or '.join(takers)}."
            )
        if value and key in _CLEARML_ONLY and not config.logger.use_clearml:
            raise UsageError(f"{option_of(key)} means nothing without ClearML: add --use-clearml.")
    if config.data.dataset == "synthetic" and "data.data_dir" in values:
        raise UsageError(
            "--data-dir means nothing with --dataset synthetic, whose images are drawn: "
            "leave one of them out."
        )
    if not config.data.use_cache and "data.cache_dir" in values:
        raise UsageError("--cache-dir means nothing with --no-cache: leave one of them out.")


def switched_on(*names: str, default: bool = False) -> bool:
    """Return what the first environment variable that is set says, as ClearML's SDK reads it."""
    for name in names:
        if given := os.environ.get(name, "").strip().lower():
            return given not in ("0", "false", "no", "off", "n", "f")
    return default
