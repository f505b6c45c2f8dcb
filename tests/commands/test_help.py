"""Every command explains itself, and what it shows as an example runs."""

from __future__ import annotations

import re
import shlex
from types import ModuleType

import pytest
from typer.main import get_command

from squeeze_cli import commands
from squeeze_cli.cli import COMMANDS, app
from squeeze_cli.options import TRAIN_FLAGS
from tests.conftest import ROOT, Squeeze

NAMES = [name for name, _ in COMMANDS]


def readme_commands() -> list[str]:
    """The `squeeze` command lines in the README's code blocks, continuation lines joined."""
    blocks = re.findall(
        r"```(?:bash|sh|console)?\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = (re.search(r"(?:^|uv run |&& )(squeeze [^#&|>]*)", line) for line in lines)
    return [match.group(1).strip() for match in found if match]


def test_all_commands_are_registered_and_each_file_is_one() -> None:
    registered = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert registered == set(NAMES)
    for name, module in COMMANDS:
        assert module.__name__ == f"{commands.__name__}.{name.replace('-', '_')}"


@pytest.mark.parametrize(("name", "module"), COMMANDS, ids=NAMES)
def test_help_fits_80_columns_and_shows_the_examples(
    squeeze: Squeeze, name: str, module: ModuleType
) -> None:
    text = squeeze(name, "--help").stdout
    assert max(len(line) for line in text.splitlines()) <= 80
    assert 2 <= len(module.EXAMPLES) <= 4
    shown = " ".join(text.split())
    for example in module.EXAMPLES:
        assert example in shown
        assert example.startswith(f"squeeze {name}")


@pytest.mark.parametrize(
    "example", [e for _, m in COMMANDS for e in m.EXAMPLES] + readme_commands(), ids=str
)
def test_examples_are_understood(example: str) -> None:
    """Parsed by the very parser; what they do is tested elsewhere."""
    _, name, *arguments = shlex.split(example)
    if name.startswith("-"):
        return
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    parent = get_command(app).make_context("squeeze", [name], resilient_parsing=True)
    command.make_context(name, list(arguments), parent=parent)


def test_every_flag_of_training_is_in_the_help_with_its_default(squeeze: Squeeze) -> None:
    text = " ".join(squeeze("train", "--help", env={"COLUMNS": "300"}).stdout.split())
    for flag in TRAIN_FLAGS:
        assert flag.spellings[0] in text
        assert flag.text in text


def test_no_arguments_show_the_help_and_count_as_wrong_usage(squeeze: Squeeze) -> None:
    shown = squeeze(code=2)
    assert "train" in shown.stdout + shown.stderr


def test_version(squeeze: Squeeze) -> None:
    from squeeze_cli import __version__

    assert squeeze("--version").stdout == f"squeeze {__version__}\n"
