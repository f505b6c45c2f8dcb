from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from typer.testing import CliRunner

from squeeze_cli.cli import app
from squeeze_cli.config.parts import QUANTIZERS
from tests.pets import TINY_NAMES, write_layout

if TYPE_CHECKING:
    from squeeze_cli.training.modules import SegmentationModule

# FAISS's codecs have no code vectors, no prior and nothing to learn: tests/training/test_faiss_codec.py.
OWN_QUANTIZERS = [name for name in QUANTIZERS if name != "faiss"]
ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"
EXECUTABLE = Path(sys.executable).parent / "squeeze"

settings.register_profile("long", max_examples=10_000)

# Of a shell's background jobs the system ignores Ctrl-C, and what waits for it would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Two test processes on two cores: more threads each would only make them wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--executable", action="store_true", help="run all command lines by the real executable"
    )


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the person's own cache, or waits until its files are on the disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def real_data() -> Path:
    if not (REAL_DATA / "oxford-iiit-pet").is_dir():
        pytest.skip("no real photographs beside the project")
    return REAL_DATA


@pytest.fixture
def tiny_pets(tmp_path: Path) -> Path:
    """A data folder with 10 trainval and 4 test images, all whole."""
    write_layout(tmp_path, TINY_NAMES)
    return tmp_path


Squeeze = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def squeeze(
    squeeze_here: Squeeze, squeeze_executable: Squeeze, request: pytest.FixtureRequest
) -> Squeeze:
    """Run a command line in `tmp_path`: in this process, or by `pytest --executable` in its own.

    Importing torch anew for each command would take most of the suite's time.
    """
    return squeeze_executable if request.config.getoption("executable") else squeeze_here


@pytest.fixture
def squeeze_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Squeeze:
    """Run a command line in this process, in `tmp_path`; checks the exit code unless it is None.

    All that the executable does but the process itself; for tests that patch the package.
    """

    def run(
        *arguments: str, code: int | None = 0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80", **(env or {})})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return _checked(code, arguments, result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def squeeze_executable(tmp_path: Path) -> Squeeze:
    """Run the real executable in `tmp_path`; checks the exit code unless `code` is None."""

    def run(
        *arguments: str, code: int | None = 0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(EXECUTABLE), *arguments],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "80", **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return _checked(code, arguments, done.returncode, done.stdout, done.stderr)

    return run


def _checked(
    wanted: int | None, arguments: tuple[str, ...], code: int, stdout: str, stderr: str
) -> subprocess.CompletedProcess[str]:
    if wanted is not None:
        assert code == wanted, f"{' '.join(arguments)} ended with {code}\n{stdout}\n{stderr}"
    return subprocess.CompletedProcess(arguments, code, stdout, stderr)


@pytest.fixture
def module() -> SegmentationModule:
    """A module small enough to be looked at."""
    from squeeze_cli.config.resolve import resolve_defaults
    from squeeze_cli.config.schema import (
        ExperimentConfig,
        ModelConfig,
        QuantizerConfig,
    )
    from squeeze_cli.heads.base import ConvolutionalHead
    from squeeze_cli.model.network import FeatureNormalizer, SegmentationNetwork
    from squeeze_cli.quantizers import TrainingStep, create_quantizer
    from squeeze_cli.training.experiment import make_module

    config = resolve_defaults(
        ExperimentConfig(quantizer=QuantizerConfig(type="none"), model=ModelConfig(num_classes=3))
    )
    quantizer = create_quantizer(config.quantizer, 4, TrainingStep(1))
    network = SegmentationNetwork(
        FeatureNormalizer(4), quantizer, ConvolutionalHead(4, 3, hidden=2)
    )
    return make_module(config, network)
