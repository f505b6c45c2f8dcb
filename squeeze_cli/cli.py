"""The Typer app: global options, the commands, and errors turned into exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated by SIGTERM.
"""

import contextlib
import importlib
import os
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from squeeze_cli import __version__
from squeeze_cli.console import flush_output, prepare_streams, printable
from squeeze_cli.errors import SqueezeError, UsageError

# The commands, and the first line of the help of each.
COMMANDS = {
    "train": "Train a quantizer, and with masks a segmentation head, on frozen features.",
    "baseline": "Train a segmentation head on unquantized features, to compare quantizers with.",
    "evaluate": "Measure a finished run: mean IoU, accuracy, distortion and codebook usage.",
    "compare": "Compare all runs below the folders given: rate, mean IoU, difference to the baseline.",
    "show": "Draw images, ground truth, the baseline's predictions and the run's own, with their IoU.",
    "extract-embeddings": "Write codes or features of images, and report their size.",
    "merge": "Check that an extraction in parts is complete, and write its manifest.",
    "decode": "Decode codes to features or masks, by the run's folder alone: no images, no backbone.",
    "backbones": "List the backbones for --model: channels, stride, image size, place of the weights.",
    "cache": "Show or delete stored features, which can always be computed again.",
    "clearml-init": "Ask for a ClearML server's address and credentials, test them, and write them.",
    "doctor": "Check versions, devices, cache, disk, data, weights and ClearML, and name the fixes.",
}
# The modules of commands that share a module.
MODULES = {
    "baseline": "train", "evaluate": "inference", "show": "inference",
    "extract-embeddings": "inference", "merge": "inference", "decode": "inference",
    "backbones": "lists", "cache": "lists",
}  # fmt: skip
# Iterations that a waiting OpenMP thread spins before it sleeps (libgomp's GOMP_SPINCOUNT). With
# libgomp's default of 300,000, two trainings at once on two cores take ten times as long as one.
OPENMP_SPIN_COUNT = "10000"
# RuntimeErrors of libraries whose cause is the machine: a pattern of the message, and the fix.
_MACHINE_ERRORS = {
    r"DataLoader worker .*(exited|killed)|shared memory\(shm\)|</torch_": "A process that reads images "
    "has ended: memory, or /dev/shm, is full; free some, or use fewer --num-workers (0 for none).",
    "[Cc]ould not determine (the )?home": "This user has no home folder: set HOME to a folder.",
}
# Environment variables that launchers and build tools set, and that libraries read as numbers.
_WHOLE_NUMBERS = re.compile(
    "((LOCAL_|NODE_|GROUP_|JSM_NAMESPACE_)?RANK|(LOCAL_)?WORLD_SIZE|MASTER_PORT|SOURCE_DATE_EPOCH|"
    "SLURM_(NTASKS|PROCID|LOCALID|NODEID))"
)
WIDE_TERMINAL = 120  # columns, from which the opposites of switches are shown
# Key in the context's `meta`: whether the command line begins with a command.
_COMMAND_FIRST = "squeeze.command-first"


class _PlainSwitches:
    """Mixin that shows switches in `--help` without `<bool>`, and their opposites (`--no-cache`) on wide
    terminals only: their column would leave too little room for the texts of all options."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        narrow = shutil.get_terminal_size().columns < WIDE_TERMINAL
        for param in self.get_params(ctx):  # type: ignore[attr-defined]
            if getattr(param, "is_flag", False):
                param.metavar = ""
            if narrow:
                param.secondary_opts = []
        super().format_help(ctx, formatter)  # type: ignore[misc]


class SqueezeCommand(_PlainSwitches, TyperCommand):
    """A command of squeeze."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; SqueezeError for an environment variable that would stop an import."""
        for name, value in os.environ.items():
            if _WHOLE_NUMBERS.fullmatch(name) and not re.fullmatch("[0-9]{1,18}", value):
                raise SqueezeError(
                    f"The environment variable {name} is {value!r}, not a whole number: unset it."
                )
        return super().invoke(ctx)


class SqueezeGroup(_PlainSwitches, TyperGroup):
    """The group of all commands; every error is one plain line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the group's own options, which stand before the command."""
        ctx.meta[_COMMAND_FIRST] = bool(args) and not args[0].startswith("-")
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return no option where none is given: Typer validates defaults with pydantic, too slowly."""
        return [] if ctx.meta.get(_COMMAND_FIRST) else super().get_params(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that is called, and only this one."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        # Shell completion also looks up names that are not commands.
        return name, load_command(name) if name else placeholder, rest

    def main(self, args: Sequence[str] | None = None, *others: Any, **settings: Any) -> None:
        """Run a command line and end the process with its exit code."""
        given = join_list_values(list(sys.argv[1:] if args is None else args))
        settings["standalone_mode"] = False  # errors come as exceptions
        message = ""
        try:
            if any(name.startswith("--") and not value for name, value in pairwise(given)):
                raise UsageError("An argument is empty: give a value, or leave its option out.")
            code = super().main(given, *others, **settings)
        except (TyperException, typer.Abort, SqueezeError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _message(error):
                raise
            code = getattr(error, "exit_code", 1)
            if "--verbose" in given and not isinstance(error, TyperException | typer.Abort):
                traceback.print_exc()
            if "by signal: Terminated" in str(error):  # the signal ended a worker first
                code = 130
            message = _message(error)  # empty where Typer has shown the help
        if code == 130:  # Typer's code for an interrupt
            message = "interrupted."
        if failure := flush_output():
            code, message = 1, f"stdout: {failure.strerror}."
        if message:
            with contextlib.suppress(OSError):  # stderr is closed
                print(f"Error: {printable(message)}", file=sys.stderr)  # noqa: T201 - the one place
        sys.exit(code or 0)


def _message(error: Exception) -> str:
    """Return the message of an error, with the command to ask for help, or the file of an OSError.

    It is empty for a RuntimeError that is not among `_MACHINE_ERRORS`.
    """
    if isinstance(error, typer.Abort):
        return "nothing was done."
    if isinstance(error, TyperException):
        # Typer validates values with pydantic, which prefixes messages.
        line = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
        context: typer.Context | None = getattr(error, "ctx", None)
        return f"{line} (see `{context.command_path} --help`)" if line and context else line
    if isinstance(error, OSError):
        place = error.filename2 or error.filename
        reason = " ".join((error.strerror or str(error)).split())
        return f"{place}: {reason}." if place else f"{reason} (--verbose tells where)."
    if isinstance(error, RuntimeError):
        fixes = (fix for pattern, fix in _MACHINE_ERRORS.items() if re.search(pattern, str(error)))
        return next(fixes, "")
    return str(error)


app = typer.Typer(
    name="squeeze", cls=SqueezeGroup,
    help="Compress the dense features of frozen vision backbones to a few bytes per image.",
    no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)  # fmt: skip


def _version(asked: bool) -> None:
    if asked:
        print(f"squeeze {__version__}")  # noqa: T201 - data for stdout
        raise typer.Exit


@app.callback()
def _squeeze(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    del version


def command_module(name: str) -> ModuleType:
    """Import the module of a command."""
    module = MODULES.get(name, name.replace("-", "_"))
    return importlib.import_module(f"squeeze_cli.commands.{module}")


def examples(name: str) -> list[str]:
    """Return the example command lines in the help of a command."""
    return [line for line in command_module(name).EXAMPLES if line.split()[1] == name]


def load_command(name: str) -> TyperCommand:
    """Import a command from its module in `squeeze_cli.commands` and return it."""
    from squeeze_cli.options import normalize_token

    single = typer.Typer(
        rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False
    )
    single.command(
        name,
        cls=SqueezeCommand,
        epilog="\n\n".join(["[bold]Examples[/bold]", *(f"  {line}" for line in examples(name))]),
        context_settings={"token_normalize_func": normalize_token},
    )(getattr(command_module(name), name.replace("-", "_")))
    command = get_command(single)
    assert isinstance(command, TyperCommand)
    return command


for _name, _summary in COMMANDS.items():
    app.command(_name, help=_summary)(lambda: None)  # `resolve_command` loads the called command


def join_list_values(arguments: list[str]) -> list[str]:
    """Turn `--levels 8 5 5 5`, the form of older command lines, into `--levels 8,5,5,5`."""
    joined: list[str] = []
    for argument in arguments:
        in_list = joined[-2:-1] and joined[-2].replace("_", "-") in ("--levels", "--class-weights")
        if in_list and re.fullmatch(r"\d+(\.\d*)?", argument):
            joined[-1] += f",{argument}"
        else:
            joined.append(argument)
    return joined


def main() -> None:
    """Run the executable `squeeze`."""
    prepare_streams()
    if "OMP_WAIT_POLICY" not in os.environ:  # libgomp reads both when torch is imported
        os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPIN_COUNT)
    if not sys.warnoptions:  # Pillow warns of images that can be read, without their names
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", "Glyph")  # names in letters that matplotlib's font lacks
    os.environ["MPLBACKEND"] = "agg"  # other backends may need a display, or not be installed
    app()
