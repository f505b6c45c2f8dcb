"""Resolution of a configuration from defaults, a YAML file and options, in rising precedence.

A YAML file is either one experiment, with the sections at its top level, or names several under
`experiments:`. A missing key has its default, an unknown one is an error.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue

from squeeze_cli.config.classes import ClassTable
from squeeze_cli.config.defaults import CODEBOOK_SIZE, CODES, FSQ_LEVELS
from squeeze_cli.config.fields import value_of
from squeeze_cli.config.parts import (
    BACKBONES,
    DATASETS,
    DEFAULT_DATASET,
    GIVEN_FEATURES,
    LOSSES,
    QUANTIZERS,
)
from squeeze_cli.config.schema import FIELDS, ExperimentConfig, Kind, option_of
from squeeze_cli.config.target import dial_of, first_step, first_weight, size_for, weight_of_step
from squeeze_cli.config.validation import check_folders, check_together, parse, refuse_meaningless
from squeeze_cli.config.yaml_files import read_yaml
from squeeze_cli.errors import SqueezeError, UsageError, nearest
from squeeze_cli.files import write_atomically

EXAMPLE = "the one in examples.yaml"
# Fields of the section `data` that name files and folders of the user.
PLACES = ("images", "masks", "test_images", "test_masks", "split_file", "features", "feature_names")
# A run's config.yaml must keep these fields of `data`, and all fields of other sections except FREE.
DECISIVE_DATA = ("dataset", "classes", "ignore_index", "image_size", "fit", "subset_size")
FREE = (
    "model.weights",
    "model.use_kernels",
    "model.distill",  # the record has the digest of its weights
    "training.device",
    "training.devices",
    "training.num_nodes",
    "training.strategy",
)


def with_values(config: ExperimentConfig, values: Mapping[str, object]) -> ExperimentConfig:
    """Return the configuration with other values, by `section.field` or `field`, validated.

    Raises UsageError, with the option, for an invalid value.
    """
    mapping = config.model_dump(exclude_unset=True)
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (mapping.setdefault(section, {}) if section else mapping)[name] = value
    return parse(mapping, as_flags=True)


def resolve_config(
    kind: Kind | None, values: Mapping[str, object], source: str | ExperimentConfig | None = None,
    experiment: str | None = None,
) -> ExperimentConfig:  # fmt: skip
    """Return the configuration for `squeeze train` (`quantized`) or `squeeze baseline` (`baseline`).

    Args:
        kind: `quantized`, `baseline`, or None for the kind of `source`.
        values: Values of the command line, by `section.field`.
        source: A YAML file, the name of an example that comes with squeeze, or a configuration.
        experiment: Name of the experiment in a file of several.

    Raises UsageError for an invalid value, and for values that contradict each other.
    """
    if isinstance(source, str):
        config = find_experiment(source, experiment)
    elif experiment is not None:
        raise UsageError(f"--experiment {experiment} needs the file: add --config FILE.")
    else:
        config = source or ExperimentConfig(kind=kind or "quantized")
    if kind not in (None, config.kind):
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
    _refuse_ignored(config, "the configuration")  # an option may choose another type than the file
    return config


def resolve_defaults(config: ExperimentConfig) -> ExperimentConfig:
    """Fill in the fields of a configuration whose defaults depend on other fields."""
    data, given = config.data, config.data.has_features
    by_data = GIVEN_FEATURES if given else "folder" if data.images else DEFAULT_DATASET
    without_masks = given or (data.images is not None and data.masks is None)
    values = {
        "quantizer.type": "none" if config.kind == "baseline" else _choose_quantizer(config),
        "data.dataset": data.dataset or by_data,
        "model.backbone": GIVEN_FEATURES if given else config.model.backbone,
        "model.loss_type": config.model.loss_type or ("reconstruction" if without_masks else "ce"),
    }
    defaults = _defaults_of_codes(config, values["quantizer.type"], values["model.loss_type"])
    if not given:
        backbone, dataset = BACKBONES[config.model.backbone], DATASETS[values["data.dataset"]]
        if values["model.loss_type"] != "reconstruction":
            outputs = dataset.defaults.get("num_classes")
            defaults["model.num_classes"] = len(data.classes) if data.classes else outputs
            defaults |= {f"model.{name}": value for name, value in backbone.defaults.items()}
        if (side := backbone.image_size) is None and data.image_size is None:
            side = BACKBONES.load(config.model.backbone).own_image_size(config.model.backbone)
        defaults["data.image_size"] = side
    missing = {key: value for key, value in defaults.items() if value_of(config, key) is None}
    return with_values(config, {**values, **missing})


def _choose_quantizer(config: ExperimentConfig) -> str:
    """Return the quantizer: for task codes the first of fsq and dct that has all options that are set."""
    given = config.quantizer.model_fields_set
    suited = [name for name in ("fsq", "dct") if given <= QUANTIZERS[name].options]
    return suited[0] if suited and config.quantizer.codes == "task" else config.quantizer.type


def _defaults_of_codes(config: ExperimentConfig, quantizer: str, loss: str) -> dict[str, object]:
    """Return the defaults that `--codes` decides, where quantizer and loss use them, by key."""
    entry, model = QUANTIZERS[quantizer], config.model
    trained = "codes" in entry.options
    chosen = CODES[config.quantizer.codes if trained and loss != "reconstruction" else "plain"]
    defaults = {
        "quantizer.codebook_size": CODEBOOK_SIZE,
        "quantizer.encoder_lr_factor": 1.0,
        "model.encoder": "linear",
    }
    if "rate_weight" in entry.options:
        defaults["quantizer.rate_weight"] = 0.0
    if "levels" in entry.options:
        defaults["quantizer.levels"] = FSQ_LEVELS
    # Trainable features would learn to be easy to reconstruct.
    frozen = not (model.add_adapter or model.feature_dim or model.unfreeze_last_layer)
    if trained and frozen and "reconstruction_weight" in LOSSES[loss].options:
        defaults["model.reconstruction_weight"] = 0.0
    defaults |= {f"quantizer.{name}": value for name, value in entry.defaults.items()}
    defaults = {key: chosen.get(key, value) for key, value in defaults.items()}
    target = config.quantizer.target_bits
    if target and dial_of(quantizer).field == "rate_weight":
        defaults["quantizer.rate_weight"] = first_weight(quantizer, target)
    if target and quantizer == "vq":
        defaults["quantizer.codebook_size"] = size_for(target)
    if "step_size" in entry.options:
        defaults |= {"quantizer.step_size": first_step(target)} if target else {}
        step = config.quantizer.step_size or defaults["quantizer.step_size"]
        assert isinstance(step, float)
        if config.quantizer.codes != "plain":
            defaults["quantizer.rate_weight"] = weight_of_step(step)
    return defaults


def with_classes(config: ExperimentConfig, classes: ClassTable) -> ExperimentConfig:
    """Return the configuration with the classes that were found in the masks, resolved again.

    Raises UsageError where options contradict the number of classes.
    """
    config = resolve_defaults(with_values(config, {"data.classes": classes}))
    check_together(config)
    return config


def check_resumed(stored: ExperimentConfig, values: Mapping[str, object]) -> ExperimentConfig:
    """Return the configuration of a resumed run, with the paths that options give for moved files.

    The training checks later that the moved data and teacher have the same content. Raises UsageError
    for an option that differs from the run's configuration otherwise.
    """
    moved = {"model.distill", *(f"data.{name}" for name in (*PLACES, "data_dir", "cache_dir"))}
    changed = {}
    for key, own, other in _differences(stored, values):
        if key not in moved or (own is None and key != "data.cache_dir"):
            raise UsageError(
                f"{option_of(key)} {str(other)[:80]} differs from the run's own {str(own)[:80]}: leave "
                "it out to resume, or start another run."
            )
        changed[key] = other
    config = with_values(stored, changed)
    refuse_meaningless(config, changed)
    return config


def decisive_settings(config: ExperimentConfig) -> dict[str, JsonValue]:
    """Return the settings that decide weights, codes and masks, by `section.field`, as plain values.

    Paths, devices and trackers are not among them: they may change in a run's `config.yaml`.
    """
    values = config.model_dump(mode="json")
    settings = {}
    for key in FIELDS:
        section, _, name = key.rpartition(".")
        named = name in DECISIVE_DATA if section == "data" else key not in FREE
        if section in ("quantizer", "model", "training", "data") and named:
            settings[key] = values[section][name]
    return settings


def load_run_config(file: Path, recorded: Mapping[str, object]) -> ExperimentConfig:
    """Read a run's `config.yaml`; SqueezeError where it differs from the `recorded` settings."""
    try:
        config = load_experiment(file)
    except UsageError as error:  # the run wrote the file, so this is not wrong usage
        raise SqueezeError(f"{error} The run needs its own: train it again.") from None
    known = {key: value for key, value in recorded.items() if key in FIELDS}
    for key, own, other in _differences(config, known):
        raise SqueezeError(
            f"{file} was changed since the run was trained ({key}: {str(own)[:80]}, it was "
            f"{str(other)[:80]}): change it back, or train the run again."
        )
    return config


def with_run_values(config: ExperimentConfig, given: Mapping[str, object]) -> ExperimentConfig:
    """Return a finished run's configuration with other paths of its data, or another device.

    For a run on drawn images, `data.data_dir` chooses photographs of the same classes. Raises
    UsageError for values that are invalid, or that the run would ignore.
    """
    values = dict(given)
    photographs = DATASETS[str(config.data.dataset)].photographs
    if "data.data_dir" in values and photographs:
        values["data.dataset"] = photographs
    config = with_values(config, values)
    refuse_meaningless(config, values)
    check_folders(config)
    return config


def _differences(
    config: ExperimentConfig, values: Mapping[str, object]
) -> Iterator[tuple[str, object, object]]:
    """Yield the key, the value in `config` and the new value of each of `values` that differs.

    Fields outside the sections, a run's name and folder, are left out.
    """
    changed = with_values(config, values)
    for key in values:
        own, other = value_of(config, key), value_of(changed, key)
        if "." in key and own != other:
            yield key, own, other


def switched_on(*names: str, default: bool = False) -> bool:
    """Return the switch in the first environment variable that is set, as ClearML's SDK reads it."""
    for name in names:
        if given := os.environ.get(name, "").strip().lower():
            return given not in ("0", "false", "no", "off", "n", "f")
    return default


def find_experiment(source: str, experiment: str | None) -> ExperimentConfig:
    """Read an experiment from the file `source`, or the example with this name.

    Raises UsageError if neither exists, and as `load_experiment` does.
    """
    path, package = Path(source), Path(__file__).parents[1]
    if path.is_file() or path.suffix or path.name != source:
        return load_experiment(path, experiment)
    places = (package / "examples.yaml", package.parent / "examples.yaml")  # installed; a checkout
    named = read_yaml(next(place for place in places if place.exists()), EXAMPLE)["experiments"]
    assert isinstance(named, Mapping)
    if source not in named:
        hint = nearest(source, named)
        raise UsageError(f"--config {source} is neither a file nor an example: {hint}")
    if experiment is not None:
        raise UsageError(f"--config {source} names an example: leave --experiment out.")
    return _experiment_from(named[source], f"example {source}")


def load_experiment(path: Path, experiment: str | None = None) -> ExperimentConfig:
    """Read one experiment from a YAML file: `experiment` names it where the file holds several.

    Raises UsageError for a file that cannot be read, and for a name that is unknown or missing.
    """
    content = read_yaml(path, EXAMPLE)
    named = content.get("experiments")
    if named is None:
        if experiment is not None:
            raise UsageError(f"{path} holds one experiment without a name: leave --experiment out.")
        return _experiment_from(content, str(path))
    if not isinstance(named, Mapping) or not named:
        raise UsageError(
            f"'experiments' in {path} must map names to experiments, such as {EXAMPLE}."
        )
    if experiment is None:
        raise UsageError(f"{path} holds several: add --experiment with one of {', '.join(named)}.")
    if experiment not in named:
        raise UsageError(f"No experiment {experiment!r} in {path}: {nearest(experiment, named)}")
    chosen = named[experiment]
    return _experiment_from({} if chosen is None else chosen, f"{path}: {experiment}")


def to_yaml(config: ExperimentConfig) -> str:
    """Return the YAML text of a configuration, which `load_experiment` reads."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def write_config(path: Path, config: ExperimentConfig) -> None:
    """Write the configuration as YAML, atomically."""
    write_atomically(path, to_yaml(config))


def _experiment_from(mapping: object, where: str) -> ExperimentConfig:
    config = parse(mapping, where)
    _refuse_ignored(config, where)
    return config


def _refuse_ignored(config: ExperimentConfig, where: str) -> None:
    """Raise UsageError for quantizer fields that the chosen type ignores.

    Fields with their default are accepted, because older files list every field.
    """
    chosen = config.quantizer.type if config.kind == "quantized" else "none"
    accepted = {*QUANTIZERS[chosen].options, "type", "codebook_size", "encoder_lr_factor"}
    others = config.quantizer.model_dump(exclude=accepted, exclude_defaults=True)
    if others.get("levels") == FSQ_LEVELS:
        del others["levels"]
    for name in others:
        raise UsageError(
            f"{where}: quantizer.{name} has no effect for type {config.quantizer.type!r}: "
            "remove it, or choose another type."
        )
