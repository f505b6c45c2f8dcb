"""The Typer app: global options, the commands, and errors turned into exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import functools
import re
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Annotated, Any

import typer

from squeeze_cli import __version__
from squeeze_cli.commands import baseline, cache, compare, evaluate, show, train
from squeeze_cli.console import print_error
from squeeze_cli.errors import SqueezeError
from squeeze_cli.options import normalize_token

app = typer.Typer(
    name="squeeze",
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
    ("cache", cache),
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
    app(args=join_list_values(sys.argv[1:]))
