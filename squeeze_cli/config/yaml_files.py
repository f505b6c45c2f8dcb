"""Configurations to and from YAML files.

A file is either one experiment, with the sections at its top level, or names several under
`experiments:`. A missing key takes its default, an unknown one is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.config.validation import parse
from squeeze_cli.errors import UsageError, nearest
from squeeze_cli.files import write_text_atomically


def find_experiment(source: str, experiment: str | None) -> ExperimentConfig:
    """Read an experiment from the file `source`, or the example of that name.

    Raises UsageError where there is neither, or as `load_experiment` does.
    """
    path, package = Path(source), Path(__file__).parents[1]
    if path.exists() or path.suffix or path.name != source:
        return load_experiment(path, experiment)
    places = (package / "examples.yaml", package.parent / "examples.yaml")  # installed; a checkout
    named = _read_yaml(next(place for place in places if place.exists()))["experiments"]
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
    content = _read_yaml(path)
    named = content.get("experiments")
    if named is None:
        if experiment is not None:
            raise UsageError(f"{path} holds one experiment without a name: leave --experiment out.")
        return _experiment_from(content, str(path))
    if not isinstance(named, Mapping) or not named:
        raise UsageError(f"'experiments' in {path} must map names to experiments.")
    if experiment is None:
        raise UsageError(f"{path} holds several: add --experiment with one of {', '.join(named)}.")
    if experiment not in named:
        raise UsageError(f"No experiment {experiment!r} in {path}: {nearest(experiment, named)}")
    return _experiment_from(named[experiment] or {}, f"{path}: {experiment}")


def to_yaml(config: ExperimentConfig) -> str:
    """Return the configuration as the text of a YAML file, which `load_experiment` reads back."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def write_config(path: Path, config: ExperimentConfig) -> None:
    """Write the configuration as YAML, atomically."""
    write_text_atomically(path, to_yaml(config))


def _read_yaml(path: Path) -> Mapping[str, Any]:
    """Read a mapping from a YAML file in which no key stands twice."""
    import yaml

    class UniqueKeys(yaml.SafeLoader):
        """PyYAML's safe loader, which alone would let the last of several equal keys win."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = set()
            for key, _ in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in names:
                    raise UsageError(f"{path}, line {line}: {name!r} stands there twice.")
                names.add(name)
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys) or {}
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} must hold a mapping, such as the one in examples.yaml.")
    return content


def _experiment_from(mapping: object, where: str) -> ExperimentConfig:
    """Validate an experiment, and refuse quantizer fields that would be ignored.

    Older files list every quantizer field, so one that has its default is fine.
    """
    config = parse(mapping, where)
    chosen = config.quantizer.type if config.kind == "quantized" else "none"
    accepted = {*QUANTIZERS[chosen].options, "type", "codebook_size", "encoder_lr_factor"}
    for name in config.quantizer.model_dump(exclude=accepted, exclude_defaults=True):
        raise UsageError(
            f"{where}: quantizer.{name} means nothing for type {config.quantizer.type!r}: "
            "remove it, or choose another type."
        )
    return config
