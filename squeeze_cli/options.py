"""The command line's options: those of an experiment from the schema, the others as annotations.

Every option also answers to its snake_case spelling and to its older names (`--quantizer_type`).
An option that is left out is None, and leaves the file or the default to decide.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from squeeze_cli.config.fields import flag_of, option_type
from squeeze_cli.config.schema import DeviceName, ExperimentConfig, field_of
from squeeze_cli.errors import UsageError

PANELS = {
    "quantizer": "Quantizer", "model": "Model", "training": "Training", "data": "Data",
    "logger": "Tracking", "": "Run",
}  # fmt: skip
_OF_THE_RUN = "that of the run"


def _option(panel: str, flag: str, text: str, metavar: str | None = None) -> Any:
    text = text.replace("[default", r"\[default")  # brackets are markup of rich
    return typer.Option(flag, help=text, metavar=metavar, rich_help_panel=panel, show_default=False)


def field_help(key: str, default: str | None = None) -> str:
    """Return the help of a field's option: its description and its default.

    Args:
        key: The field, as `section.field`.
        default: Words for the default where it is not the field's own.
    """
    _, name, field = field_of(key)
    own = field.default
    if isinstance(own, bool):
        own = "on" if own else None
    elif isinstance(own, tuple):
        own = ",".join(map(str, own))
    words = default or flag_of(name, field).default or own
    return f"{field.description}{f' [default: {words}]' if words else ''}"


def field_option(key: str, default: str | None = None) -> Any:
    """Return Typer's option for the field `section.field`; `default` as in `field_help`."""
    section, name, field = field_of(key)
    flag = flag_of(name, field)
    metavar = None if field.annotation is bool else flag.metavar
    spelling = (flag.spellings or ())[0]
    return _option(PANELS[section], spelling, field_help(key, default), metavar)


def figure_option(flag: str, text: str) -> Any:
    """Return Typer's option for the file of a figure, whose name says its format."""

    def check(path: Path | None) -> Path | None:
        if path is not None and path.suffix.lower() not in (".png", ".svg"):
            raise UsageError(f"{flag} {path}: name a file that ends in .png or .svg.")
        return path

    return typer.Option(flag, metavar="FILE", help=text, callback=check)


# Options of several commands. Where a parameter is None, the run's own configuration decides.
RunArgument = Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)]
DataDir = Annotated[str | None, field_option("data.data_dir", _OF_THE_RUN)]
NumWorkers = Annotated[int | None, field_option("data.num_workers", _OF_THE_RUN)]
CacheDir = Annotated[str | None, field_option("data.cache_dir", _OF_THE_RUN)]
UseCache = Annotated[bool | None, field_option("data.use_cache", _OF_THE_RUN)]
BatchSize = Annotated[int | None, field_option("training.batch_size", _OF_THE_RUN)]
Device = Annotated[
    DeviceName | None,
    _option("Training", "--device",
            "Where to compute: auto, cpu, cuda or mps. [default: that of the run]", "NAME"),
]  # fmt: skip
Credentials = Annotated[str | None, field_option("logger.credentials_file")]
Json = Annotated[bool, _option("Output", "--json", "Print the result as JSON on stdout.")]
Quiet = Annotated[bool, _option("Output", "--quiet", "Print only warnings and errors.")]
Verbose = Annotated[
    bool, _option("Output", "--verbose", "Print details, and tracebacks of errors.")
]
NoProgress = Annotated[bool, _option("Output", "--no-progress", "Show no progress bars.")]


@dataclass(frozen=True)
class RunOptions:
    """The options of `train` and `baseline` that are no part of the configuration."""

    config: Annotated[
        str | None,
        _option("Run", "--config", "YAML file of experiments, or the name of an example that "
                "comes with squeeze; options win over it.", "FILE"),
    ] = None  # fmt: skip
    experiment: Annotated[
        str | None, _option("Run", "--experiment", "Which experiment of the file.", "NAME")
    ] = None
    overwrite: Annotated[bool, _option("Run", "--overwrite", "Replace a run of the same name.")] = (
        False
    )
    resume: Annotated[
        bool, _option("Run", "--resume", "Continue a stopped run (--name, or the only one).")
    ] = False
    dry_run: Annotated[
        bool, _option("Run", "--dry-run", "Print the resolved configuration and do nothing.")
    ] = False
    remote_queue: Annotated[
        str | None,
        _option("Tracking", "--remote-queue",
                "Run this command on a ClearML agent that serves this queue.", "QUEUE"),
    ] = None  # fmt: skip
    json: Json = False
    quiet: Quiet = False
    verbose: Verbose = False
    no_progress: NoProgress = False


def experiment_keys(*sections: str) -> Iterator[str]:
    """Iterate over the fields of these sections that have an option, as `section.field`.

    The section "" stands for the fields of the experiment itself.
    """
    whole = ExperimentConfig.model_fields
    for section in sections:
        known = option_type(whole[section]).model_fields if section else whole
        for name, field in known.items():
            if name not in PANELS and flag_of(name, field).spellings:
                yield f"{section}.{name}" if section else name


@functools.cache
def older_names() -> dict[str, str]:
    """Map the older names of options to the preferred ones, without their dashes."""
    names = {}
    for key in experiment_keys(*PANELS):
        _, name, field = field_of(key)
        preferred, *others = flag_of(name, field).spellings or ()
        for spelling in others:
            for older, newer in zip(spelling.split("/"), preferred.split("/"), strict=False):
                names[older.removeprefix("--")] = newer.removeprefix("--")
    return names


def normalize_token(token: str) -> str:
    """Return an option's name in its preferred spelling."""
    name = token.replace("_", "-")
    return older_names().get(name, name)


ExperimentCommand = Callable[[Mapping[str, object], RunOptions], None]


def experiment_options(*sections: str) -> Callable[[ExperimentCommand], Callable[..., None]]:
    """Give a command the options of an experiment.

    The command's function receives the values that are given, by `section.field`, and the
    `RunOptions`. The fields of `sections` become options, in this order, as in `experiment_keys`.
    """
    keys = {key.replace(".", "__"): key for key in experiment_keys(*sections)}
    annotations: dict[str, Any] = {
        name: Annotated[option_type(field_of(key)[2]) | None, field_option(key)]
        for name, key in keys.items()
    }
    own = get_type_hints(RunOptions, include_extras=True)
    annotations |= own

    def decorate(function: ExperimentCommand) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**given: Any) -> None:
            values = {keys[name]: given[name] for name in keys if given[name] not in (None, [])}
            function(values, RunOptions(**{name: given[name] for name in own}))

        parameters = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation,
                default=getattr(RunOptions, name, None),
            )
            for name, annotation in annotations.items()
        ]  # fmt: skip
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = annotations
        return command

    return decorate
