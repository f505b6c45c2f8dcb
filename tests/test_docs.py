"""The documentation is true where a test can tell: its commands, options, links, words and size."""

from __future__ import annotations

import contextlib
import re
import runpy
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from squeeze_cli.cli import COMMANDS, app, load_command
from squeeze_cli.options import normalize_token
from tests.conftest import ROOT, Squeeze

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
BENCHMARKS = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if "argparse" in path.read_text()
)
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code_lines(page: Path, *, inline: bool = False) -> list[str]:
    """Lines of fenced and indented code, continued lines joined; `inline`: code in sentences too."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    blocks += re.findall(r"^    (.*(?:\n    .*)*)", text, re.M)
    if inline:
        blocks += re.findall(r"`([^`\n]+)`", text)
    return "\n".join(blocks).replace("\\\n", " ").splitlines()


def commands(page: Path, program: str) -> list[list[str]]:
    """The arguments of each call of `program` on a page; those with a placeholder are left out."""
    found = (
        re.match(rf"\s*(?:.*(?:uv run|&&|srun.*) )?{program} ([^#&|>]*)", line)
        for line in code_lines(page)
    )
    lines = [match.group(1).strip() for match in found if match]
    return [shlex.split(line) for line in lines if not re.search(r"…|\.\.\.|\b[A-Z]{3,}\b", line)]


def squeeze_commands() -> list[tuple[str, ...]]:
    return sorted({tuple(arguments) for page in PAGES for arguments in commands(page, "squeeze")})


@pytest.mark.parametrize("arguments", squeeze_commands(), ids=" ".join)
def test_commands_are_understood(
    arguments: tuple[str, ...], squeeze: Squeeze, tmp_path: Path
) -> None:
    name, *rest = arguments
    if "--classes" in rest:  # a file that the page shows
        text = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
        (classes,) = re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)
        (tmp_path / rest[rest.index("--classes") + 1]).write_text(classes)
    if name in {"train", "baseline"} and rest and not {"--resume", "--config"} & set(rest):
        squeeze(*arguments, "--dry-run")
    elif name.startswith("-") or not rest:
        squeeze(name, *([] if name.startswith("-") else ["--help"]))
    else:
        parent = get_command(app).make_context("squeeze", [name], resilient_parsing=True)
        load_command(name).make_context(name, list(rest), parent=parent)


@pytest.mark.parametrize("name", ["quickstart", "quickstart-baseline"])
def test_shipped_experiments_are_found_by_name(squeeze: Squeeze, name: str) -> None:
    kind = "baseline" if name.endswith("baseline") else "train"
    assert f"name: {name}\n" in squeeze(kind, "--config", name, "--dry-run").stdout


def test_options_in_the_text_exist() -> None:
    known = {"--help", "--version"}
    for name in COMMANDS:
        for parameter in load_command(name).params:
            known |= {*parameter.opts, *parameter.secondary_opts}
    for name in BENCHMARKS:
        text = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
        known |= set(re.findall(r'"(--[\w-]+)"', text))
    others = {
        "--compile-bytecode",
        "--check",
        "--group",
        "--logdir",
        "--executable",
        "--no-config",
    }  # uv, ruff, ...
    unknown = {
        f"{page.name}: {option}"
        for page in PAGES
        for line in code_lines(page, inline=True)
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", line)
        if f"--{normalize_token(option[2:])}" not in known | others
        and not re.search(r"torchrun|#SBATCH|srun|clearml-agent", line)
    }
    assert not unknown


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_explain_themselves(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with contextlib.suppress(SystemExit):
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    text = capsys.readouterr().out
    for page in PAGES:
        for arguments in commands(page, f"python -m benchmarks.{name}"):
            for option in (argument for argument in arguments if argument.startswith("--")):
                assert option in text, f"{page.name}: benchmarks.{name} has no {option}"


def test_every_benchmark_that_is_named_exists() -> None:
    for page in PAGES:
        for name in re.findall(r"-m benchmarks\.(\w+)", page.read_text(encoding="utf-8")):
            assert (ROOT / "benchmarks" / f"{name}.py").exists(), f"{page.name}: {name}"


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_paths_in_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:/|\.py))`", text)
    assert named
    missing = [
        name
        for name in named
        if not (ROOT / "squeeze_cli" / name).exists() and not (ROOT / name).exists()
    ]
    assert not missing


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1000
    assert max(len(line) for line in text.splitlines()) <= 100


@by_page
def test_prose_keeps_to_the_line(page: Path) -> None:
    text = re.sub(r"<!-- results:begin.*?results:end -->", "", page.read_text(), flags=re.S)
    text = re.sub(r"<!-- rate-dist.*?distortion:end -->", "", text, flags=re.S)
    for line in text.splitlines():
        assert len(line) <= 106 or line.startswith(("|", "    ")), line


@by_page
def test_words_are_plain(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    odd = re.findall(
        r"\b(?:mends?|(?:bits?|bytes?|images?|vectors?|codes?|ms|milliseconds) an? "
        r"(?:vector|image|step|second|codebook|batch)|an? (?:second|step) of|"
        r"(?<!there )(?<!There )(?:is|are) no (?!longer\b)\w+|so many \w+ as)\b",
        text,
    )
    assert not odd
