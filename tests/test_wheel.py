"""The wheel holds all that `squeeze` needs: code, type marker, templates, named experiments."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


def test_the_wheel_is_enough(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.read("squeeze_cli/examples.yaml") == (ROOT / "examples.yaml").read_bytes()
    tracked = subprocess.run(
        ["git", "ls-files", "squeeze_cli"], cwd=ROOT, check=False, capture_output=True, text=True
    ).stdout.split()
    assert {name for name in tracked if (ROOT / name).exists()} <= names
    assert not any(name.startswith("tests/") for name in names)


def test_a_wheel_can_be_built_from_the_source_archive(built: Path, tmp_path: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert (source / "examples.yaml").read_bytes() == (ROOT / "examples.yaml").read_bytes()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        assert "squeeze_cli/examples.yaml" in opened.namelist()
