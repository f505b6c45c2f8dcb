"""Commands in fresh processes, and what each of them cost."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cost:
    """What a process cost, start and imports included.

    Attributes:
        wall_s: from start to end.
        cpu_s: of all cores, user and system, of it and the worker processes that it waited for.
        peak_mib: the largest resident memory of any one of these processes.
        load: the machine's load average over the minute before the start.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    load: float

    def __add__(self, other: Cost) -> Cost:
        """One after the other."""
        return Cost(
            self.wall_s + other.wall_s,
            self.cpu_s + other.cpu_s,
            max(self.peak_mib, other.peak_mib),
            max(self.load, other.load),
        )


def measure(command: Sequence[str], *, expected_code: int = 0) -> Cost:
    """Run `command` from the project's root to its end; RuntimeError for another exit code.

    Python keeps the bytecode of what it imports, as it does where nothing is set: without, every
    process would compile its packages anew, which takes longer than importing them.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    load = os.getloadavg()[0]
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != expected_code:
            said.seek(0)
            text = said.read().decode(errors="replace")[-4000:]
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    # Linux counts kibibytes, macOS bytes.
    peak_mib = usage.ru_maxrss / (2**20 if os.uname().sysname == "Darwin" else 2**10)
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, peak_mib, load)


def disk_mib(folder: Path) -> float:
    """Bytes of all files below `folder`, in MiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
