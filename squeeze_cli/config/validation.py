"""Validation of a configuration: each mistake is one line that names the key or option, and the fix."""

from collections.abc import Iterable, Mapping
from math import log2, prod

from pydantic import ValidationError

from squeeze_cli.config.defaults import CODEBOOK_SIZE, LEVELS
from squeeze_cli.config.fields import choices_of, first_problem, value_of
from squeeze_cli.config.parts import DATASETS, GIVEN_FEATURES, QUANTIZERS
from squeeze_cli.config.schema import FIELDS, SECTIONS, ExperimentConfig, option_of
from squeeze_cli.config.target import dial_of
from squeeze_cli.errors import UsageError, nearest

# The principal axes of more channels take minutes to compute.
MOST_BLOCK_CHANNELS = 4096
# The header of a codes file has the size of each code of a vector.
MOST_COEFFICIENTS = 1024
# Fields that have no effect with `--features`, besides the fields of other data sets.
OF_IMAGES = (
    "data.image_size", "data.fit", "data.num_workers", "data.cache_dir", "data.use_cache",
    "model.backbone", "model.weights", "model.layer",
)  # fmt: skip


def parse(values: object, where: str = "", as_flags: bool = False) -> ExperimentConfig:
    """Validate a mapping of fields and sections as an experiment.

    Raises UsageError for the first wrong value. Its message begins with `where`, the source of the
    values, and names the option (`--epochs`) with `as_flags`, else the key (`training.epochs`). For an
    unknown key it names the most similar key.
    """
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        raise UsageError(_message(error, where, as_flags)) from None


def _message(error: ValidationError, where: str, as_flags: bool) -> str:
    problem, words = first_problem(error)
    keys = [key for key in problem["loc"] if isinstance(key, str)]
    key = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        *sections, name = keys
        section = ".".join(sections)
        place = ": ".join(filter(None, (where, section))) or "the configuration"
        return f"Unknown key {name!r} in {place}: {nearest(name, SECTIONS[section].model_fields)}"
    field = FIELDS.get(key)
    subject = option_of(key) if as_flags and field else key
    if len(problem["loc"]) > len(keys) and problem["type"] != "invalid_key":
        subject = f"each of {subject}"
    default = field.default if field else None
    if isinstance(default, (int, float, tuple)) and not isinstance(default, bool) and default != ():
        items = default if isinstance(default, tuple) else (default,)
        words += f" (such as {','.join(map(str, items))})"
    return f"{': '.join(filter(None, (where, subject)))} {words}, not {problem['input']!r}."


def check_together(config: ExperimentConfig) -> None:
    """Raise UsageError, with the fix, for values of a resolved configuration that contradict each other.

    Sizes that depend on the backbone are checked when it is built.
    """
    quantizer, logger = config.quantizer, config.logger
    # A YAML file may name files and folders that the data set does not read.
    files = DATASETS["folder"].options | DATASETS[GIVEN_FEATURES].options
    named = [f"data.{key}" for key, value in config.data if value is not None and key in files]
    refuse_foreign(config, "data.dataset", named)
    size = quantizer.codebook_size or CODEBOOK_SIZE
    if quantizer.type == "lfq" and size & (size - 1):
        below = 2 ** (size.bit_length() - 1)
        raise UsageError(
            f"--codebook-size {size} cannot be used with --quantizer lfq, which spends one bit per "
            f"dimension: use a power of two, {below} or {2 * below}."
        )
    values = size * quantizer.bottleneck_dim * quantizer.num_quantizers
    if quantizer.type in ("vq", "rvq", "pq") and values > 2**27:
        raise UsageError(
            f"The codebooks would have {values:,} values, more than {2**27:,}: make --codebook-size "
            "or --bottleneck-dim smaller."
        )
    if quantizer.type == "dct" and quantizer.bottleneck_dim > MOST_COEFFICIENTS:
        raise UsageError(
            f"--bottleneck-dim {quantizer.bottleneck_dim} is more than the {MOST_COEFFICIENTS} "
            "coefficients per vector that --quantizer dct can have."
        )
    if quantizer.quantizer_dropout and quantizer.num_quantizers == 1:
        raise UsageError(
            "--quantizer-dropout needs --num-quantizers 2 or more: leave one of them out."
        )
    width, groups = quantizer.bottleneck_dim, quantizer.num_groups
    if quantizer.type == "pq" and width % groups:
        divisors = [number for number in range(1, min(width, 256) + 1) if width % number == 0]
        raise UsageError(
            f"--num-groups {groups} does not divide --bottleneck-dim {width}: use "
            f"{min(divisors, key=lambda number: abs(number - groups))}."
        )
    channels = quantizer.bottleneck_dim * quantizer.code_stride**2
    if quantizer.code_stride > 1 and channels > MOST_BLOCK_CHANNELS:
        raise UsageError(
            f"--code-stride {quantizer.code_stride} and --bottleneck-dim {quantizer.bottleneck_dim} give "
            f"blocks of {channels:,} values, more than {MOST_BLOCK_CHANNELS:,}: make one of them smaller."
        )
    _check_target(config)
    if (codes := prod(quantizer.levels or ())) > 2**20:
        raise UsageError(f"--levels gives {codes} codes: their product must not pass {2**20}.")
    _check_loss(config)
    if not config.data.has_features:
        refuse_foreign(config, "model.backbone", _not_default(config, "model"))
    _check_classes(config)
    check_folders(config)
    if logger.use_clearml and logger.clearml_offline and logger.require_clearml:
        raise UsageError("--clearml-offline contradicts --require-clearml: leave one of them out.")


def _check_target(config: ExperimentConfig) -> None:
    """Refuse a target above the rate of uncoded codes, and a search for it on several devices."""
    quantizer, training = config.quantizer, config.training
    target = quantizer.target_bits
    if not target or "target_bits" not in QUANTIZERS[quantizer.type].options:
        return  # `refuse_meaningless` refuses it
    if training.devices != 1 or training.num_nodes != 1:
        raise UsageError("--target-bits trains several times, on one device: leave --devices out.")
    if quantizer.rate_weight == 0 and dial_of(quantizer.type).field == "rate_weight":
        raise UsageError("--target-bits needs a weight of the rate: leave rate_weight: 0 out.")
    counts = {"rvq": quantizer.num_quantizers, "pq": quantizer.num_groups}
    counts["dct"] = quantizer.bottleneck_dim
    size = LEVELS if quantizer.type == "dct" else quantizer.codebook_size or CODEBOOK_SIZE
    most = counts.get(quantizer.type, 1) * log2(size) / quantizer.code_stride**2
    if target >= most:
        others = {"vq": ", or --quantizer rvq", "dct": ", or a larger --bottleneck-dim"}
        raise UsageError(
            f"--target-bits {target:g} is not below the {most:.4g} bits of codes that are not coded: "
            f"choose a smaller one{others.get(quantizer.type, '')}."
        )


def _check_loss(config: ExperimentConfig) -> None:
    """Refuse settings of the model that the loss ignores, and a loss without trainable parts."""
    loss = str(config.model.loss_type)
    if config.model.has_head and config.data.has_features:
        raise UsageError(
            f"--loss {loss} needs masks, which --features does not provide: use --loss reconstruction."
        )
    refuse_foreign(config, "model.loss_type", _not_default(config, "model"))
    untrained = {"model.reconstruction_weight": ("none", "faiss"), "model.distill": ("none",)}
    for key, quantizers in untrained.items():
        if config.quantizer.type in quantizers and value_of(config, key):
            raise UsageError(
                f"{option_of(key)} has no effect where no quantizer is trained: leave it out."
            )
    if config.quantizer.codes == "task" and not config.model.has_head:
        raise UsageError(f"--codes task needs masks, and --loss {loss} has none: leave it out.")
    if config.model.distill and config.model.unfreeze_last_layer:
        raise UsageError("--distill contradicts --unfreeze-last-layer: leave one of them out.")
    weight = FIELDS["model.distill_weight"].default
    if config.model.distill_weight != weight and not config.model.distill:
        raise UsageError("--distill-weight needs the baseline: add --distill RUN.")
    if not config.model.has_head and config.quantizer.type == "none":
        raise UsageError(
            f"--loss {loss}, the default without masks, trains a quantizer alone, and unquantized "
            "features have none: give masks by --masks DIR, or `squeeze train` with a --quantizer."
        )


def _check_classes(config: ExperimentConfig) -> None:
    """Check the values that depend on the number of classes, if that number is known."""
    data, model = config.data, config.model
    known = DATASETS[str(data.dataset)].defaults.get("num_classes", 0)
    count = len(data.classes) if data.classes else int(known)
    weights, outputs = model.class_weights, model.num_classes
    if count and outputs and outputs < count:
        raise UsageError(f"--num-classes {outputs} is too few: the data have {count} classes.")
    if weights and count and len(weights) not in (count, outputs):
        more = f", or {outputs}, one for each output of the head" * (outputs not in (None, count))
        raise UsageError(
            f"--class-weights gives {len(weights)} weights: give {count}, one for each class{more}."
        )
    if weights and not any(weights):
        raise UsageError("--class-weights must not be all 0, e.g. 1,1,2.")


def check_folders(config: ExperimentConfig) -> None:
    """Check that the data set has its folders, and that folders of images and masks come in pairs."""
    data, with_masks = config.data, config.model.has_head
    if data.dataset == GIVEN_FEATURES and not data.features:
        raise UsageError(f"--dataset {GIVEN_FEATURES} needs --features PATH.")
    if data.dataset == "folder" and not (data.images and (data.masks or not with_masks)):
        raise UsageError(
            "--dataset folder needs --images DIR, and --masks DIR unless --loss is reconstruction."
        )
    masks_alone = data.test_masks and not data.test_images
    images_alone = data.test_images and not data.test_masks and with_masks
    if masks_alone or images_alone:
        raise UsageError("--test-images and --test-masks need each other: give both.")
    if data.mask_suffix and not data.masks:
        raise UsageError("--mask-suffix has no effect without --masks DIR: add it.")
    if data.test_images and data.split_file:
        raise UsageError("--split-file contradicts --test-images: leave one of them out.")


def refuse_meaningless(config: ExperimentConfig, values: Mapping[str, object]) -> None:
    """Raise UsageError for options that the chosen parts ignore; it names parts that use them."""
    clearml, data = config.logger.use_clearml, config.data
    refuse_foreign(config, "quantizer.type", values)
    refuse_foreign(config, "data.dataset", values)
    for key in ("quantizer.rate_weight", "quantizer.step_size"):
        if config.quantizer.target_bits and key in values:
            raise UsageError(
                f"--target-bits finds the {option_of(key)} itself: leave one of them out."
            )
    for key, value in values.items():
        section, _, name = key.partition(".")
        elsewhere = ("use_clearml", "use_tensorboard", "auto_connect_frameworks")
        if value and section == "logger" and name not in elsewhere and not clearml:
            raise UsageError(f"{option_of(key)} has no effect without ClearML: add --use-clearml.")
    if not data.use_cache and "data.cache_dir" in values:
        raise UsageError("--cache-dir has no effect with --no-cache: leave one out.")
    for key in OF_IMAGES:
        if data.has_features and key in values and values[key] != GIVEN_FEATURES:
            raise UsageError(
                f"{option_of(key)} has no effect with --features, which need no backbone: leave it out."
            )


def refuse_foreign(config: ExperimentConfig, chooser: str, keys: Iterable[str]) -> None:
    """Raise UsageError for fields that belong to other parts than the chosen one.

    `chooser` is the field that chooses the part, such as `quantizer.type`; `keys` are in its section.
    """
    registry, section = choices_of(FIELDS[chooser]), chooser.partition(".")[0]
    assert registry is not None
    chosen, flag = str(value_of(config, chooser)), option_of(chooser)
    for key in keys:
        name = key.removeprefix(f"{section}.")
        named = zip(registry.names, registry.values(), strict=True)
        takers = [each for each, entry in named if name in entry.options]
        if takers and name not in registry[chosen].options:
            raise UsageError(
                f"{option_of(key)} has no effect with {flag} {chosen}: leave it out, or choose "
                f"{flag} {' or '.join(takers)}."
            )


def _not_default(config: ExperimentConfig, section: str) -> list[str]:
    """Return the keys of a section whose values differ from their defaults."""
    keys = [f"{section}.{name}" for name in SECTIONS[section].model_fields]
    return [key for key in keys if value_of(config, key) != FIELDS[key].default]
