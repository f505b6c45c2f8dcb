"""The Typer app: global options, the commands, and errors turned into exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import functools
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from squeeze_cli import __version__, process_end
from squeeze_cli.commands import (
    baseline,
    cache,
    clearml_init,
    compare,
    decode,
    doctor,
    evaluate,
    extract_embeddings,
    show,
    train,
)
from squeeze_cli.console import print_error
from squeeze_cli.errors import SqueezeError
from squeeze_cli.options import normalize_token


class OneLineErrors(TyperGroup):
    """Typer's group, but a usage error is one plain line, as all other errors are.

    Typer draws a box, and imports most of rich for it: a usage error would take half as long again.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line; standalone, end the process with its exit code."""
        arguments = (args, prog_name, complete_var, False, windows_expand_args)
        if not standalone_mode:
            return super().main(*arguments, **extra)
        try:
            code = super().main(*arguments, **extra)
        except typer.Abort:
            print_error("nothing was done.")
            sys.exit(1)
        except TyperException as error:
            message = error.format_message()
            if message:  # none where the help is shown in its place
                print_error(_with_hint(message, getattr(error, "ctx", None)))
            sys.exit(error.exit_code)
        sys.exit(code or 0)


def _with_hint(message: str, context: typer.Context | None) -> str:
    line = " ".join(message.split()).rstrip(".")
    return line if context is None else f"{line} (see `{context.command_path} --help`)"


app = typer.Typer(
    name="squeeze",
    cls=OneLineErrors,
    help="Compress the dense features of frozen vision backbones to a handful of bytes that "
    "still segment well.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": normalize_token,
    },
)

COMMANDS: tuple[tuple[str, ModuleType], ...] = (
    ("train", train),
    ("baseline", baseline),
    ("evaluate", evaluate),
    ("compare", compare),
    ("show", show),
    ("extract-embeddings", extract_embeddings),
    ("decode", decode),
    ("cache", cache),
    ("clearml-init", clearml_init),
    ("doctor", doctor),
)
LIST_FLAGS = ("--levels", "--class-weights")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"squeeze {__version__}")  # noqa: T201 - data for stdout
        raise typer.Exit


@app.callback()
def _squeeze(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    del version


def _register(module: ModuleType, name: str) -> None:
    function: Callable[..., None] = getattr(module, name.replace("-", "_"))
    examples = "\n\n".join(f"  {example}" for example in module.EXAMPLES)
    app.command(name, epilog=f"[bold]Examples[/bold]\n\n{examples}", no_args_is_help=False)(
        _with_exit_codes(function)
    )


def _with_exit_codes(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except SqueezeError as error:
            if kwargs.get("verbose"):
                traceback.print_exc()
            print_error(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            print_error("interrupted; a stopped training goes on with --resume.")
            raise typer.Exit(130) from None

    return command


for _name, _module in COMMANDS:
    _register(_module, _name)


def join_list_values(arguments: list[str]) -> list[str]:
    """`--levels 8 5 5 5`, as argparse took it, becomes `--levels 8,5,5,5`."""
    joined: list[str] = []
    for argument in arguments:
        number = re.fullmatch(r"\d+(\.\d*)?", argument)
        open_list = (
            len(joined) >= 2
            and joined[-2].replace("_", "-") in LIST_FLAGS
            and re.fullmatch(r"[\d.,]+", joined[-1])
        )
        if number and open_list:
            joined[-1] += f",{argument}"
        else:
            joined.append(argument)
    return joined


def main() -> None:
    """The executable `squeeze`."""
    try:
        app(args=join_list_values(sys.argv[1:]))
    except SystemExit as end:
        process_end.end_process(end.code)
        raise
    except Exception:
        process_end.end_process_after_error()
        raise
