from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"

# Two test processes on two cores: more threads each would only make them wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the person's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def real_data() -> Path:
    if not (REAL_DATA / "oxford-iiit-pet").is_dir():
        pytest.skip("no real photographs beside the project")
    return REAL_DATA


Squeeze = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def squeeze(tmp_path: Path) -> Squeeze:
    """Run the real executable in `tmp_path`; checks the exit code unless `code` is None."""

    def run(
        *arguments: str, code: int | None = 0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        executable = Path(sys.executable).parent / "squeeze"
        done = subprocess.run(
            [str(executable), *arguments],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "80", **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if code is not None:
            assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
