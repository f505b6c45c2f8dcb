"""From options and a file to one valid configuration: defaults < file < options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod

from squeeze_cli.config.defaults import CODEBOOK_SIZE, TRIMAP_CLASSES
from squeeze_cli.config.fields import parse, spelling
from squeeze_cli.config.parts import BACKBONES, QUANTIZERS
from squeeze_cli.config.schema import ExperimentConfig, Kind, ModelConfig, QuantizerConfig
from squeeze_cli.config.yaml_files import find_experiment
from squeeze_cli.errors import UsageError

COMMANDS = {"quantized": "train", "baseline": "baseline"}
_CLEARML_ONLY = (
    "logger.project_name", "logger.task_name", "logger.clearml_tags", "logger.clearml_offline",
    "logger.require_clearml", "logger.credentials_file",
)  # fmt: skip


def with_values(config: ExperimentConfig, values: Mapping[str, object]) -> ExperimentConfig:
    """Return the configuration with other values, by `section.field` or `field`, validated.

    Raises UsageError, naming the option, for a value that cannot be.
    """
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        part = getattr(config, section) if section else config
        changed = parse(type(part), {**dict(part), name: value}, as_flags=True)
        config = config.model_copy(update={section: changed}) if section else changed
    return config


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
            raise UsageError(
                f"This experiment is of kind {config.kind}: run it with "
                f"`squeeze {COMMANDS[config.kind]}`."
            )
    elif experiment is not None:
        raise UsageError(f"--experiment {experiment} needs the file: add --config FILE.")
    else:
        config = ExperimentConfig(kind=kind)
    config = with_values(config, values)
    if "logger.clearml_offline" not in values and config.logger.use_clearml:
        offline = switched_on("CLEARML_OFFLINE_MODE", "TRAINS_OFFLINE_MODE")
        config = with_values(config, {"logger.clearml_offline": True}) if offline else config
    config = resolve_defaults(config)
    validate(config)
    _refuse_meaningless(config, values)
    return config


def resolve_defaults(config: ExperimentConfig) -> ExperimentConfig:
    """Return the configuration with what other choices decide: codebook size, classes and rate."""
    chosen = "none" if config.kind == "baseline" else config.quantizer.type
    values: dict[str, object] = {"quantizer.type": chosen}
    quantizer = QUANTIZERS[chosen].defaults
    if config.quantizer.codebook_size is None:
        values["quantizer.codebook_size"] = quantizer.get("codebook_size", CODEBOOK_SIZE)
    if config.quantizer.encoder_lr_factor is None:
        values["quantizer.encoder_lr_factor"] = quantizer.get("encoder_lr_factor", 1.0)
    if config.model.num_classes is None:
        values["model.num_classes"] = BACKBONES[config.model.backbone].defaults["num_classes"]
    return with_values(config, values)


def validate(config: ExperimentConfig) -> None:
    """Raise UsageError, naming the fix, for resolved values that do not go together.

    This imports no torch, so that a usage error comes at once; sizes that only the backbone knows
    are checked when it is built.
    """
    _validate_quantizer(config.quantizer)
    _validate_model(config.model)
    if config.logger.use_clearml:
        _require(
            not (config.logger.clearml_offline and config.logger.require_clearml),
            "--clearml-offline needs no server, --require-clearml one: leave one of them out.",
        )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def _validate_quantizer(quantizer: QuantizerConfig) -> None:
    size = quantizer.codebook_size or CODEBOOK_SIZE
    _require(
        quantizer.type != "lfq" or size & (size - 1) == 0,
        f"--codebook-size {size} cannot be used with --quantizer lfq, which spends one bit per "
        f"dimension: use a power of two, {2 ** (size.bit_length() - 1)} or "
        f"{2 ** size.bit_length()}.",
    )
    codes = prod(quantizer.levels)
    _require(codes <= 2**20, f"--levels gives {codes} codes: their product must not pass {2**20}.")


def _validate_model(model: ModelConfig) -> None:
    _require(
        model.freeze_backbone,
        "freeze_backbone: false is not supported, because squeeze works on frozen features; "
        "unfreeze_last_layer: true trains the last layer.",
    )
    if model.class_weights is not None:
        given = len(model.class_weights)
        _require(
            given in (TRIMAP_CLASSES, model.num_classes),
            f"--class-weights gives {given} weights: give one for each of the {TRIMAP_CLASSES} "
            f"trimap classes, e.g. 1,1,2, or for each of the {model.num_classes} outputs.",
        )
        _require(any(model.class_weights), "--class-weights must not be all 0, e.g. 1,1,2.")


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
    section, _, name = key.rpartition(".")
    config = ExperimentConfig()
    part = getattr(config, section) if section else config
    return spelling(name, type(part).model_fields[name])


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
