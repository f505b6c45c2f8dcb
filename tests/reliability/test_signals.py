"""Signals while the process starts; tests of those that arrive later stand in test_kills.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import EXECUTABLE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

# A package that the command imports, which takes long. Some packages swallow what is raised meanwhile.
SLOW_PACKAGE = """
import time
try:
    print("importing", flush=True)
    time.sleep(9)
except BaseException as error:
    print("caught", flush=True)
    {caught}
time.sleep(9)
"""
COMMAND = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from squeeze_cli.__main__ import main
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "caught", ["raise", "raise ImportError('something is missing') from error", "pass"]
)
def test_while_a_package_is_imported(
    tmp_path: Path, number: signal.Signals, code: int, caught: str
) -> None:
    (tmp_path / "lightning.py").write_text(SLOW_PACKAGE.format(caught=caught))
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path), "train", "--output-dir", tmp_path / "runs"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    said, errors = process.communicate(timeout=8)
    assert process.returncode == code, errors
    assert said == "caught\n"
    assert errors.splitlines()[1:] == ["Error: interrupted."]  # after the run's folder
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("others", [("--devices", "2"), ("--no-cache", "--num-workers", "2")])
def test_processes_that_work_together_end_together(
    tmp_path: Path, others: tuple[str, ...], whole_group: bool
) -> None:
    """A scheduler signals the first process or all of them; none is left, and nothing hangs."""
    process = subprocess.Popen(
        [EXECUTABLE, "train", "--model", "efficientnet-lite0", "--dataset", "synthetic", *others,
         "--epochs", "500", "--subset-size", "20", "--image-size", "64", "--batch-size", "4",
         "--device", "cpu", "--no-progress", "--name", "it"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    last = tmp_path / "runs" / "it" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors.splitlines()[-1] == "Error: interrupted."
    assert "Traceback" not in errors
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_what_the_shell_ignores_stays_ignored() -> None:
    """As it does for `nohup` and for jobs in the background."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import squeeze_cli.cli as cli\n"
        "cli.main = lambda: (os.kill(os.getpid(), signal.SIGINT), sys.exit(7))\n"
        "from squeeze_cli.__main__ import main\n"
        "main()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 7


def test_an_interrupt_that_a_destructor_swallows_is_raised_again() -> None:
    code = (
        "import os, signal, sys, time\n"
        "import squeeze_cli.cli as cli\n"
        "class Dropped:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(5)\n"
        "def run():\n"
        "    Dropped()\n"
        "    time.sleep(20)\n"
        "cli.main = run\n"
        "from squeeze_cli.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=15, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (143, "Error: interrupted.\n")
