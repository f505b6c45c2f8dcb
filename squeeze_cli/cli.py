"""The Typer app: global options, the commands, and errors turned into exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import errno
import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from squeeze_cli import __version__, process_end
from squeeze_cli.console import print_error
from squeeze_cli.errors import SqueezeError

# Names and what the list of commands says of them: the first line of each one's help.
COMMANDS = {
    "train": "Train a quantizer and a segmentation head on the features of a frozen backbone.",
    "baseline": "Train a segmentation head on unquantized features: what quantizers are "
    "measured against.",
    "evaluate": "Measure a finished run: mean IoU, accuracy and codebook usage.",
    "compare": "Compare all runs below the folders given: rate, mean IoU, difference to the baseline.",
    "show": "Draw images, ground truth, the baseline's predictions and the run's own, with their IoU.",
    "extract-embeddings": "Write codes, quantized embeddings or features of images, and say what "
    "they cost.",
    "decode": "Decode codes to embeddings or masks: no images, no backbone, only the run's folder.",
    "cache": "Show or delete the features kept for later runs; they can always be made again.",
    "clearml-init": "Ask for a ClearML server's address and credentials, test them, and write them.",
    "doctor": "Check versions, devices, cache, disk, data, weights and ClearML; say what mends what.",
}
# Busy rounds of a waiting OpenMP thread before it gives its core away (libgomp's GOMP_SPINCOUNT). With
# libgomp's own 300,000, two trainings at once on two cores take ten times as long as one.
OPENMP_SPIN_COUNT = "10000"
LIST_FLAGS = ("--levels", "--class-weights")


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
    # Values are checked by pydantic, which puts its own words first.
    line = " ".join(message.split()).rstrip(".").replace("Value error, ", "")
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
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)


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


class PostponedCommand(TyperCommand):
    """Stands for a command in the list of them; the command itself is imported when it is called."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """The context of the command itself, which then runs it."""
        assert self.name is not None
        return load_command(self.name).make_context(info_name, args, parent, **extra)


def load_command(name: str) -> TyperCommand:
    """The command of this name, from its module in `squeeze_cli.commands`."""
    from squeeze_cli.options import normalize_token

    module = command_module(name)
    examples = "\n\n".join(f"  {example}" for example in module.EXAMPLES)
    single = typer.Typer(
        rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False
    )
    single.command(
        name,
        epilog=f"[bold]Examples[/bold]\n\n{examples}",
        context_settings={"token_normalize_func": normalize_token},
    )(_with_exit_codes(getattr(module, module.__name__.rpartition(".")[2])))
    command = get_command(single)
    assert isinstance(command, TyperCommand)
    return command


def command_module(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"squeeze_cli.commands.{name.replace('-', '_')}")


def _with_exit_codes(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except SqueezeError as error:
            if kwargs.get("verbose"):
                import traceback

                traceback.print_exc()
            print_error(str(error))
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # `squeeze compare | head`: typer ends it in silence
                raise
            _say_where(error, bool(kwargs.get("verbose")))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            trains = function.__name__ in ("train", "baseline")
            print_error("interrupted" + ("; --resume goes on." if trains else "."))
            raise typer.Exit(130) from None

    return command


def _say_where(error: OSError, verbose: bool) -> None:
    """A disk that is full, a folder that cannot be written: what, and where."""
    if verbose:
        import traceback

        traceback.print_exc()
    places = [str(place) for place in (error.filename2, error.filename) if place]
    what = " ".join((error.strerror or str(error)).split())
    print_error(f"{places[0]}: {what}." if places else f"{what} (--verbose tells where).")


for _name, _summary in COMMANDS.items():
    app.command(_name, cls=PostponedCommand, help=_summary)(lambda: None)


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
    """Run the executable `squeeze`."""
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is imported
        os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPIN_COUNT)
    try:
        app(args=join_list_values(sys.argv[1:]))
    except SystemExit as end:
        process_end.end_process(end.code)
        raise
    except Exception:
        process_end.end_process_after_error()
        raise
