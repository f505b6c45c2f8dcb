"""Options of the command line: from the fields of the schema, and from dataclasses of a command.

Every option may also be written in snake_case and by its older names (`--quantizer_type`). An option
that is left out is None; then the value of the YAML file or the default counts.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeeze_cli.config.fields import choices_of, option_type
from squeeze_cli.config.schema import FIELDS, flag_of
from squeeze_cli.console import Reporter, print_json
from squeeze_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

PANELS = {
    "quantizer": "Quantizer", "model": "Model", "training": "Training", "data": "Data",
    "logger": "Tracking", "": "Run",
}  # fmt: skip
# Names of options in older command lines, without their dashes.
OLDER_NAMES = {
    "quantizer-type": "quantizer",
    "no-initialize-codebook": "random-codebook",
    "backbone": "model",
    "no-unfreeze-last-layer": "freeze-last-layer",
    "loss-type": "loss",
    "data-path": "data-dir",
    "credentials-file": "credentials",
    "experiment-name": "name",
}


def option(
    text: str, metavar: str | None = None, *names: str, panel: str | None = None, **others: Any
) -> object:
    """Return Typer's option, which has the name of its parameter unless `names` are given.

    Its text may hold `[default: ...]` for a default unknown to Typer.
    """
    text = text.replace("[default", r"\[default")  # brackets are markup of rich
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=panel, **others)


def switch(name: str, text: str, panel: str | None = None) -> object:
    """Return Typer's option for a switch without an opposite."""
    return option(text, None, name, panel=panel)


def field_help(key: str, default: str | None = None) -> str:
    """Return the help of the field `section.field`: its description and its default.

    `default` describes a default that replaces the field's own.
    """
    field = FIELDS[key]
    text, _, described = (field.description or "").partition(" [default: ")
    value = field.default
    if isinstance(value, bool):
        value = "on" if value else None
    elif isinstance(value, tuple):
        value = ",".join(map(str, value))
    shown = default or described.rstrip("]") or value
    return text if shown in (None, "") else f"{text} [default: {shown}]"


def field_option(key: str, default: str | None = None, hidden: bool = False) -> object:
    """Return Typer's option for the field `section.field`; `default` has the meaning of `field_help`."""
    flag, panel = flag_of(key), PANELS[key.rpartition(".")[0]]
    assert flag.name
    choices = choices_of(FIELDS[key]) if option_type(FIELDS[key]) is str else None
    return option(
        field_help(key, default), flag.metavar, flag.name, panel=panel, show_default=False,
        autocompletion=choices and choices.complete, hidden=hidden,
    )  # fmt: skip


@functools.cache
def _parameter(key: str, default: str | None, hidden: bool) -> inspect.Parameter:
    """Return the parameter of a command for the field `section.field`."""
    return inspect.Parameter(
        key.replace(".", "__"), inspect.Parameter.KEYWORD_ONLY, default=None,
        annotation=Annotated[option_type(FIELDS[key]) | None, field_option(key, default, hidden)],
    )  # fmt: skip


def figure_option(text: str) -> object:
    """Return Typer's option for the file of a figure, which must end in `.png` or `.svg`."""

    def check(param: typer.CallbackParam, path: Path | None) -> Path | None:
        if path and path.suffix.lower() not in (".png", ".svg"):
            raise UsageError(f"{param.opts[0]} {path}: name a file that ends in .png or .svg.")
        return path

    return option(text, "FILE", callback=check)


_out = functools.partial(switch, panel="Output")


@dataclass(frozen=True)
class OutputOptions:
    """Options for the output of a result, of messages and of progress."""

    json: Annotated[bool, _out("--json", "Print the result as JSON on stdout.")] = False
    quiet: Annotated[bool, _out("--quiet", "Print only warnings and errors.")] = False
    verbose: Annotated[bool, _out("--verbose", "Print details, and tracebacks of errors.")] = False
    no_progress: Annotated[bool, _out("--no-progress", "Show no progress bars.")] = False

    def __post_init__(self) -> None:
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose contradict each other: leave one out.")

    def reporter(self) -> Reporter:
        """Return a reporter for these options."""
        return Reporter(self.quiet, self.verbose, not self.no_progress)

    def show(self, result: object, table: "RenderableType") -> None:
        """Print the result as JSON if `--json` is given, else as a table or text."""
        if self.json:
            print_json(result)
        else:
            self.reporter().show(table)


def experiment_keys(*sections: str) -> list[str]:
    """Return the keys `section.field` of all fields of these sections that have an option.

    The section "" stands for the fields of the experiment itself.
    """
    return [key for key in FIELDS if key.rpartition(".")[0] in sections and flag_of(key).name]


def normalize_token(token: str) -> str:
    """Return an option's name in its preferred spelling."""
    name = token.replace("_", "-")
    return OLDER_NAMES.get(name, name)


def with_options(
    *sections: str, fields: Sequence[str] = (), default: str | None = None,
    hidden: Sequence[str] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:  # fmt: skip
    """Return a decorator that gives a command the options of `sections`, of `fields` and of dataclasses.

    The command's parameter `values` receives a mapping from `section.field` to the values of the given
    options. `default` describes the value of an option that is left out, as in `field_help`; the help
    leaves out the `hidden` fields. A parameter whose type is a dataclass receives an instance of it.
    """
    chosen = [*experiment_keys(*sections), *fields]
    of_sections = [_parameter(key, default, key in hidden) for key in chosen]
    keys = {parameter.name: key for parameter, key in zip(of_sections, chosen, strict=True)}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True).parameters
        kinds: dict[str, type] = {
            name: p.annotation
            for name, p in own.items()
            if isinstance(p.annotation, type) and is_dataclass(p.annotation)
        }
        members = {
            name: inspect.signature(kind, eval_str=True).parameters for name, kind in kinds.items()
        }

        @functools.wraps(function)
        def command(**given: object) -> None:
            values = {key: given.pop(name) for name, key in keys.items()}
            if keys:
                given["values"] = {k: v for k, v in values.items() if v not in (None, [])}
            for name, kind in kinds.items():
                given[name] = kind(**{each: given.pop(each) for each in members[name]})
            function(**given)

        flat = [
            *of_sections,
            *(p for name in own for p in members.get(name, {name: own[name]}).values()),
        ]
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=p.KEYWORD_ONLY) for p in flat if p.name != "values"]
        )
        return command

    return decorate
