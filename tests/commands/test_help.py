"""Every command explains itself, and what it shows as an example runs."""

from __future__ import annotations

import re
import shlex

import pytest
from typer.main import get_command

from squeeze_cli.cli import COMMANDS, app, command_module, examples, load_command
from squeeze_cli.config.schema import FIELDS, flag_of
from squeeze_cli.options import PANELS, experiment_keys, field_help
from tests.conftest import ROOT, Squeeze


def readme_commands() -> list[str]:
    """The `squeeze` command lines in the README's code blocks, continuation lines joined."""
    blocks = re.findall(
        r"```(?:bash|sh|console)?\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = (re.search(r"(?:^|uv run |&& )(squeeze [^#&|>]*)", line) for line in lines)
    return [match.group(1).strip() for match in found if match]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_ones_help_begins_with(name: str) -> None:
    assert list(get_command(app).commands) == list(COMMANDS)  # type: ignore[attr-defined]
    assert (load_command(name).help or "").splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns_and_shows_the_examples(squeeze: Squeeze, name: str) -> None:
    text = squeeze(name, "--help").stdout
    assert max(len(line) for line in text.splitlines()) <= 80
    assert 2 <= len(examples(name)) <= 4
    shown = " ".join(text.split())
    for example in examples(name):
        assert example in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_names_of_options_are_whole_on_80_columns(squeeze: Squeeze, name: str) -> None:
    text = squeeze(name, "--help").stdout
    assert "…" not in text
    shown = set(re.findall(r"(?<![\w-])--[\w-]+", text))
    options = [
        option for option in load_command(name).params if not getattr(option, "hidden", False)
    ]
    assert shown >= {flag for option in options for flag in option.opts if "--" in flag}


def test_the_help_of_a_baseline_leaves_out_what_needs_a_quantizer(squeeze: Squeeze) -> None:
    text = squeeze("baseline", "--help").stdout
    base = ("baseline", "--dataset", "synthetic", "--model", "efficientnet-lite0", "--dry-run")
    for flag, value in {
        "--distill": "RUN", "--distill-weight": "2", "--reconstruction-weight": "0.5",
        "--cosine-weight": "0.5", "--features": "FILE", "--feature-names": "FILE",
    }.items():  # fmt: skip
        assert f"{flag} " not in text
        assert flag in squeeze(*base, flag, value, code=2).stderr


def test_every_example_is_of_a_command_of_its_module() -> None:
    written = {line for name in COMMANDS for line in command_module(name).EXAMPLES}
    assert written == {line for name in COMMANDS for line in examples(name)}


@pytest.mark.parametrize(
    "example",
    [e for name in COMMANDS for e in examples(name)] + readme_commands(),
    ids=str,
)
def test_examples_are_understood(example: str) -> None:
    """Parsed by the very parser; what they do is tested elsewhere."""
    _, name, *arguments = shlex.split(example)
    if name.startswith("-"):
        return
    parent = get_command(app).make_context("squeeze", [name], resilient_parsing=True)
    load_command(name).make_context(name, list(arguments), parent=parent)


def test_every_field_of_the_schema_is_in_the_help_with_its_default(squeeze: Squeeze) -> None:
    keys = list(experiment_keys(*PANELS))
    assert len(keys) >= 47
    text = " ".join(squeeze("train", "--help", env={"COLUMNS": "300"}).stdout.split())
    for key in keys:
        for spelling in (flag_of(key).name or "").split("/"):
            assert f"{spelling} " in text
        assert field_help(key) in text
        default = FIELDS[key].default
        if isinstance(default, (int, float, str)) and not isinstance(default, bool):
            assert field_help(key).endswith(f"[default: {default}]")
    assert "--seed N Seed for all random numbers. [default: 42]" in text


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "clearml-init"])
def test_every_command_takes_the_options_of_output(name: str) -> None:
    known = {flag for parameter in load_command(name).params for flag in parameter.opts}
    assert {"--json", "--quiet", "--verbose", "--no-progress"} <= known


@pytest.mark.parametrize("arguments", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_names_no_types_of_python_for_switches(
    squeeze: Squeeze, arguments: tuple[str, ...]
) -> None:
    assert "bool" not in squeeze(*arguments, "--help").stdout


def test_no_arguments_show_the_help_and_count_as_wrong_usage(squeeze: Squeeze) -> None:
    shown = squeeze(code=2)
    assert "train" in shown.stdout + shown.stderr


def test_version(squeeze: Squeeze) -> None:
    from squeeze_cli import __version__

    assert squeeze("--version").stdout == f"squeeze {__version__}\n"
