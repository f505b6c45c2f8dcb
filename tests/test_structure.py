"""The shape of the package: which folder may import which, and how large its parts may be.

Imports are read from the source, so those inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "squeeze_cli"
FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(path.relative_to(PACKAGE)) for path in FILES]

# Each room, and the rooms that it may import. A room is a folder, or a module at the top level.
_BASE = {"errors", "files", "console"}
_CONFIGURED = _BASE | {"config", "runs"}
_PARTS = _CONFIGURED | {"codec", "kernels"}
_IMAGES = _PARTS | {"data", "backbones", "features"}
_NETWORK = _IMAGES | {"quantizers", "heads", "losses", "model"}
_RESULTS = {"reports", "trackers"}
_WHOLE = _NETWORK | _RESULTS | {"training", "inference", "api"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "console": {"errors", "files"},
    "config": _BASE,
    "runs": _BASE | {"config"},
    "codec": _CONFIGURED,
    "kernels": _CONFIGURED,
    "data": _PARTS,
    "backbones": _PARTS | {"data"},
    "features": _PARTS | {"data", "backbones"},
    "quantizers": _PARTS,
    "heads": _PARTS,
    "losses": _PARTS,
    "model": _IMAGES | {"quantizers", "heads", "losses"},
    "reports": _CONFIGURED | {"codec"},
    "trackers": _CONFIGURED | {"codec"},
    "training": _NETWORK | _RESULTS,
    "inference": _NETWORK | _RESULTS | {"training"},
    "api": _NETWORK | _RESULTS | {"training", "inference"},
    "options": _BASE | {"config"},
    "commands": _WHOLE | {"options"},
    "cli": _BASE | {"config", "options", "commands"},
    "__main__": {"cli"},
}  # fmt: skip

# Private names of other packages that squeeze uses, each with its reason: at most three.
PRIVATE_NAMES: dict[str, str] = {}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> Iterator[str]:
    """The package's own modules that `path` imports, wherever in the file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            assert node.module is not None
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_import_cycles() -> None:
    graph = {name: set(imports(path)) - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " <- ".join(error.args[1]))


def test_arrows_between_rooms_go_one_way() -> None:
    # The table itself has no cycle, so it is an order.
    TopologicalSorter(MAY_IMPORT).prepare()
    wrong = {
        f"{name} imports {target}"
        for name, path in MODULES.items()
        for target in imports(path)
        if room(target) not in {"", room(name)} | MAY_IMPORT.get(room(name), set())
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_every_room_is_in_the_table() -> None:
    assert {room(name) for name in MODULES} - {""} <= set(MAY_IMPORT)


def test_few_modules_stand_at_the_top_level() -> None:
    top = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert len(top) <= 8, sorted(top)


def line_counts() -> dict[str, int]:
    texts = (path.read_text(encoding="utf-8") for path in FILES)
    return {name: text.count("\n") for name, text in zip(IDS, texts, strict=True)}


def test_no_file_is_long() -> None:
    assert {name: count for name, count in line_counts().items() if count > 350} == {}


def test_the_package_stays_small() -> None:
    # What makes the package larger makes something else smaller. The last rises are for the checks of
    # files, names, data and signals that come from elsewhere (docs/reliability.md), for encoders before
    # the codes, for codes files of version 2 beside the reader of version 1, for what a teacher and a
    # folder that is written must be, for codes of several vectors, for what decoded features are
    # measured by, for images in lists, archives and at addresses, for extraction in shards, by workers,
    # in parts and on clusters, for data sets of torch over codes, for decoded features in files of other
    # programs, for transform coding with its prior, for dilated convolutions, for masks
    # whose palettes contradict each other, and for masks whose names have another end.
    assert len(FILES) <= 135
    assert sum(line_counts().values()) <= 20_171


def test_no_function_is_long() -> None:
    long = {
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path in FILES
        for node in functions(path)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > 60
    }
    assert long == {}


# Lines that name the data set of pets outside its own two files: its registration, and help texts.
PETS_ARE_NAMED_IN = {
    "config/parts.py": [
        '"oxford-pet": Entry(', '"synthetic": Entry(', 'photographs="oxford-pet"',
        'DEFAULT_DATASET = "oxford-pet"',
    ],
    "config/schema.py": ["Data set [default:"],
}  # fmt: skip


def test_only_its_own_files_know_the_data_set_of_pets() -> None:
    named = [
        (name, line.strip())
        for name, path in zip(IDS, FILES, strict=True)
        if name not in {"data/known_sets.py", "data/drawn_pets.py"}
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(?i)trimap|oxford|(?<![a-z])pets?(?![a-z])", line)
        or re.search(r"Pets?(?![a-z])", line)
    ]
    allowed = {(name, text) for name, texts in PETS_ARE_NAMED_IN.items() for text in texts}
    used = {(name, text) for name, text in allowed if any(text in line for _, line in named)}
    others = [line for line in named if not any(text in line[1] for _, text in allowed)]
    assert not others
    assert used == allowed


def test_few_lines_have_any() -> None:
    lines = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in FILES
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\bAny\b", line)
    ]
    assert len(lines) <= 60, "\n".join(lines)


# A named tuple's public methods, underscores and all.
NAMED_TUPLE = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}


def _private(name: str) -> bool:
    return re.match(r"_[^_]", name) is not None and name not in NAMED_TUPLE


@cache
def own_private_names() -> frozenset[str]:
    """Every private name that squeeze itself defines: those of its own objects are no concern."""
    names: set[str] = set()
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            ):
                names.add(node.attr)
    return frozenset(names)


def foreign_private_names(path: Path) -> Iterator[str]:
    place = path.relative_to(PACKAGE)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and _private(node.attr):
            if node.attr not in own_private_names():
                yield f"{place}: {ast.unparse(node)}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if any(_private(part) for part in alias.name.split(".")):
                    yield f"{place}: import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(PACKAGE.name):
            for name in (node.module or "", *(alias.name for alias in node.names)):
                if any(_private(part) for part in name.split(".")):
                    yield f"{place}: from {node.module} import {name}"
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"getattr", "setattr", "hasattr", "delattr"}
            and len(node.args) > 1
            and isinstance(node.args[1], ast.Constant)
            and _private(str(node.args[1].value))
            and node.args[1].value not in own_private_names()
        ):
            yield f"{place}: {ast.unparse(node)}"


def test_no_private_names_of_other_packages() -> None:
    used = {name for path in FILES for name in foreign_private_names(path)}
    assert used == set(PRIVATE_NAMES), "\n".join(sorted(used))
    assert len(PRIVATE_NAMES) <= 3


def test_no_private_hook_of_another_package_is_overridden() -> None:
    overridden = set()
    for name in MODULES:
        if name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        for kind in list(vars(module).values()):
            if not inspect.isclass(kind) or kind.__module__ != name:
                continue
            foreign = [
                base for base in kind.__mro__ if not base.__module__.startswith("squeeze_cli")
            ]
            for attribute, value in list(vars(kind).items()):
                function = getattr(value, "fget", None) or getattr(value, "__func__", value)
                written = inspect.isfunction(function) and function.__module__ == name
                if written and _private(attribute) and any(hasattr(b, attribute) for b in foreign):
                    overridden.add(f"{name}.{kind.__name__}.{attribute}")
    assert not overridden


@pytest.mark.parametrize(
    "trick", [r"sys\.modules\[", r"sys\.meta_path", r"os\._exit", r"_run_exitfuncs", r"\bctypes\b"]
)
def test_no_module_is_faked_and_no_process_cut_short(trick: str) -> None:
    assert [
        i for i, path in zip(IDS, FILES, strict=True) if re.search(trick, path.read_text())
    ] == []


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    odd = [
        f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 1)} {text.splitlines()[0]}"
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (text := ast.get_docstring(node)) is not None
        and re.match(r"(Of|What|Whose|Where)\b", text)
    ]
    assert not odd, "\n".join(odd)
