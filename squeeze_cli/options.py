"""The command line's options: those of an experiment from the schema, the others as annotations.

Every option also answers to its snake_case spelling and to its older names (`--quantizer_type`).
An option that is left out is None, and leaves the file or the default to decide.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer
from pydantic.fields import FieldInfo

from squeeze_cli.config.fields import Section, flag_of, option_type
from squeeze_cli.config.schema import (
    DataConfig,
    DeviceName,
    ExperimentConfig,
    LoggerConfig,
    TrainingConfig,
)

PANELS = {
    "quantizer": "Quantizer", "model": "Model", "training": "Training", "data": "Data",
    "logger": "Tracking", "": "Run",
}  # fmt: skip
_OUTPUT = "Output"
_OF_THE_RUN = "that of the run"


def _option(*names: str, panel: str, metavar: str | None = None, text: str) -> Any:
    text = text.replace("[default", r"\[default")  # brackets are markup of rich
    return typer.Option(
        *names, help=text, metavar=metavar, rich_help_panel=panel, show_default=False
    )


def field_help(name: str, field: FieldInfo, default: str | None = None) -> str:
    """Return the help of a field's option: its description and its default.

    Args:
        name: The field's name.
        field: The field.
        default: Words for the default where it is not the field's own.
    """
    value = field.default
    own = ",".join(map(str, value)) if isinstance(value, tuple) else value
    if isinstance(own, bool):
        own = "on" if own else None
    words = default or flag_of(name, field).default or own
    return f"{field.description}{f' [default: {words}]' if words else ''}"


def _field_option(section: type[Section], name: str, panel: str, default: str | None = None) -> Any:
    field = section.model_fields[name]
    flag = flag_of(name, field)
    metavar = None if field.annotation is bool else flag.metavar
    text = field_help(name, field, default)
    return _option((flag.spellings or ())[0], panel=panel, metavar=metavar, text=text)


# Options of several commands. Where a parameter is None, the run's own configuration decides.
RunArgument = Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)]
DataDir = Annotated[str | None, _field_option(DataConfig, "data_dir", "Data", _OF_THE_RUN)]
NumWorkers = Annotated[int | None, _field_option(DataConfig, "num_workers", "Data", _OF_THE_RUN)]
CacheDir = Annotated[str | None, _field_option(DataConfig, "cache_dir", "Data", _OF_THE_RUN)]
UseCache = Annotated[bool | None, _field_option(DataConfig, "use_cache", "Data", _OF_THE_RUN)]
BatchSize = Annotated[int | None, _field_option(TrainingConfig, "batch_size", "Data", _OF_THE_RUN)]
Device = Annotated[
    DeviceName | None,
    _option(
        "--device", panel="Data", metavar="NAME",
        text="Where to compute: auto, cpu, cuda or mps. [default: that of the run]",
    ),
]  # fmt: skip
Credentials = Annotated[str | None, _field_option(LoggerConfig, "credentials_file", "Tracking")]
Json = Annotated[bool, _option("--json", panel=_OUTPUT, text="Print the result as JSON on stdout.")]
Quiet = Annotated[bool, _option("--quiet", panel=_OUTPUT, text="Print only warnings and errors.")]
Verbose = Annotated[
    bool, _option("--verbose", panel=_OUTPUT, text="Print details, and tracebacks of errors.")
]
NoProgress = Annotated[bool, _option("--no-progress", panel=_OUTPUT, text="Show no progress bars.")]


@dataclass(frozen=True)
class RunOptions:
    """The options of `train` and `baseline` that are no part of the configuration."""

    config: Annotated[
        str | None,
        _option("--config", panel="Run", metavar="FILE", text="YAML file of experiments, or the "
                "name of an example that comes with squeeze; options win over it."),
    ] = None  # fmt: skip
    experiment: Annotated[
        str | None,
        _option("--experiment", panel="Run", metavar="NAME", text="Which experiment of the file."),
    ] = None
    overwrite: Annotated[
        bool, _option("--overwrite", panel="Run", text="Replace a run of the same name.")
    ] = False
    resume: Annotated[
        bool,
        _option("--resume", panel="Run", text="Continue a stopped run (--name, or the only one)."),
    ] = False
    dry_run: Annotated[
        bool,
        _option("--dry-run", panel="Run", text="Print the resolved configuration and do nothing."),
    ] = False
    remote_queue: Annotated[
        str | None,
        _option("--remote-queue", panel="Tracking", metavar="QUEUE",
                text="Run this command on a ClearML agent that serves this queue."),
    ] = None  # fmt: skip
    json: Json = False
    quiet: Quiet = False
    verbose: Verbose = False
    no_progress: NoProgress = False


def experiment_fields(*sections: str) -> Iterator[tuple[str, FieldInfo]]:
    """Iterate over the fields of these sections that have an option, as `section.field`.

    The section "" stands for the fields of the experiment itself.
    """
    whole = ExperimentConfig.model_fields
    for section in sections:
        known = option_type(whole[section]).model_fields if section else whole
        for name, field in known.items():
            if name not in PANELS and flag_of(name, field).spellings:
                yield (f"{section}.{name}" if section else name), field


ALIASES = {
    alias.removeprefix("--"): name.removeprefix("--")
    for key, field in experiment_fields(*PANELS)
    for first, *older in [flag_of(key.rpartition(".")[2], field).spellings or ()]
    for spelling in older
    for alias, name in zip(spelling.split("/"), first.split("/"), strict=False)
    if alias
}


def normalize_token(token: str) -> str:
    """Return an option's name in its preferred spelling."""
    name = token.replace("_", "-")
    return ALIASES.get(name, name)


def experiment_options(
    *sections: str,
) -> Callable[[Callable[[Mapping[str, Any], RunOptions], None]], Callable[..., None]]:
    """Give a command the options of an experiment.

    The command's function receives the values that are given, by `section.field`, and the
    `RunOptions`.

    Args:
        sections: The sections of the configuration whose fields become options, in the order of
            the help; "" for the fields of the experiment itself.
    """

    def decorate(function: Callable[[Mapping[str, Any], RunOptions], None]) -> Callable[..., None]:
        hints = get_type_hints(RunOptions, include_extras=True)
        keys = {key.replace(".", "__"): (key, field) for key, field in experiment_fields(*sections)}
        parameters = [_parameter(name, *keys[name]) for name in keys] + [
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY,
                default=each.default, annotation=hints[each.name],
            )
            for each in fields(RunOptions)
        ]  # fmt: skip

        @functools.wraps(function)
        def command(**given: Any) -> None:
            own = {name: given.pop(name) for name in hints}
            values = {
                keys[name][0]: value for name, value in given.items() if value not in (None, [])
            }
            function(values, RunOptions(**own))

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate


def _parameter(parameter: str, key: str, field: FieldInfo) -> inspect.Parameter:
    section, _, name = key.rpartition(".")
    flag = flag_of(name, field)
    kind = Literal[flag.choices] if flag.choices else option_type(field)
    whole = ExperimentConfig.model_fields
    model = option_type(whole[section]) if section else ExperimentConfig
    option = _field_option(model, name, PANELS[section])
    return inspect.Parameter(
        parameter, inspect.Parameter.KEYWORD_ONLY,
        default=None, annotation=Annotated[kind | None, option],
    )  # fmt: skip
