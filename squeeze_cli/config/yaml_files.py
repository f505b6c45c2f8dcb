"""Configurations to and from plain mappings and YAML files.

A missing key takes its default, an unknown one is an error that suggests the nearest. A file is
either one experiment (its top level holds the sections) or names several under `experiments:`.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.errors import UsageError

T = TypeVar("T")
# Keys of older files, and what they are called now.
_OLDER_NAMES = {"experiment_name": "name"}


def to_mapping(config: Any) -> dict[str, Any]:
    """The configuration as plain dicts, lists, strings and numbers (YAML, JSON, checkpoints)."""
    return {
        key: to_mapping(value)
        if is_dataclass(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in ((f.name, getattr(config, f.name)) for f in fields(config))
    }


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from `mapping`; `where` names the place for error messages.

    Raises UsageError for an unknown key (with the nearest known one) or a value of a wrong type.
    """
    if not isinstance(mapping, Mapping):
        raise UsageError(f"{where} must be a mapping of keys to values, not {mapping!r}.")
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        name = _OLDER_NAMES.get(key, key)
        if name not in hints:
            close = difflib.get_close_matches(str(name), hints, n=1)
            known = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(hints)}."
            raise UsageError(f"Unknown key {key!r} in {where}: {known}")
        values[name] = _coerce(value, hints[name], f"{where}.{name}")
    return cls(**values)


def load_experiment(path: Path, experiment: str | None) -> ExperimentConfig:
    """Read one experiment from a YAML file: `experiment` names it where the file holds several.

    Raises UsageError for a file that cannot be read, an unknown name, or a name that is missing.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} must hold a mapping, such as the one in examples.yaml.")
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
        close = difflib.get_close_matches(experiment, named, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(named)}."
        raise UsageError(f"No experiment {experiment!r} in {path}: {hint}")
    return _experiment_from(named[experiment] or {}, f"{path}: {experiment}")


def write_config(path: Path, config: ExperimentConfig) -> None:
    """Write the configuration as YAML, atomically; `load_experiment` reads it back."""
    import yaml

    from squeeze_cli.files import write_text_atomically

    text = yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)
    write_text_atomically(path, text)


def _experiment_from(mapping: Mapping[str, Any], where: str) -> ExperimentConfig:
    config = from_mapping(ExperimentConfig, mapping, where)
    _refuse_ignored_values(config, mapping, where)
    return config


def _refuse_ignored_values(
    config: ExperimentConfig, mapping: Mapping[str, Any], where: str
) -> None:
    """Older files list every quantizer field, so a default one is fine; a changed one must count."""
    section = mapping.get("quantizer") or {}
    options = (
        QUANTIZERS[config.quantizer.type].options if config.kind == "quantized" else frozenset()
    )
    for spec in fields(config.quantizer):
        if spec.name == "type" or spec.name in options or spec.name not in section:
            continue
        default = spec.default if spec.default is not MISSING else None
        if default is not None and getattr(config.quantizer, spec.name) != default:
            raise UsageError(
                f"{where}: quantizer.{spec.name} means nothing for type "
                f"{config.quantizer.type!r}: remove it, or choose another type."
            )


def _coerce(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _coerce(value, next(a for a in arguments if a is not type(None)), where)
    if is_dataclass(hint):
        section: Any = hint
        return from_mapping(section, {} if value is None else value, where)
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise UsageError(f"{where} must be a list, not {value!r}.")
        return tuple(_coerce(item, arguments[0], where) for item in items)
    return _scalar(value, hint, where)


def _scalar(value: Any, kind: type, where: str) -> Any:
    """YAML reads 1e-4 as text and 1 as an int: numbers are taken from either, booleans never."""
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    if (
        kind in (int, float)
        and isinstance(value, (str, int, float))
        and not isinstance(value, bool)
    ):
        try:
            number = float(value)
            if kind is float or number == int(number):
                return kind(number)
        except (ValueError, OverflowError):
            pass
    raise UsageError(f"{where} must be {kind.__name__}, not {value!r}.")
