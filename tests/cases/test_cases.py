"""Run the table of cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cases.stock import build
from tests.cases.table import Case, all_cases, check_case

CASES = list(all_cases())


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        folder = tmp_path_factory.mktemp("stock")
        build(folder)
    return folder


@pytest.mark.parametrize(
    "case", [case for _, case in CASES], ids=[f"{module}: {case.name}" for module, case in CASES]
)
def test_case(case: Case, tmp_path: Path, stock: Path) -> None:
    check_case(case, tmp_path, stock)


def test_names_are_unique() -> None:
    names = [(module, case.name) for module, case in CASES]
    assert len(set(names)) == len(names)
