"""Commands in fresh processes, and the time and memory of each."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cost:
    """Time and memory of a process, including its start and imports.

    Attributes:
        wall_s: Seconds from start to end.
        cpu_s: User and system seconds on all cores, of the process and the workers that it waited for.
        peak_mib: Largest resident memory of any of these processes.
        load: Load average of the machine over the minute before the start.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    load: float

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both processes, one after the other."""
        return Cost(
            self.wall_s + other.wall_s,
            self.cpu_s + other.cpu_s,
            max(self.peak_mib, other.peak_mib),
            max(self.load, other.load),
        )


def measure(command: Sequence[str], *, expected_code: int = 0) -> Cost:
    """Run `command` in the project's root to its end; RuntimeError for another exit code.

    Python may write bytecode, as by default: without it, every process would compile its packages anew,
    which takes longer than importing them.
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


@dataclass
class Family:
    """A command and all processes that it has started, directly or not; call `look` often.

    Attributes:
        command_mib: Largest resident memory of the command's own process.
        worker_mib: Largest resident memory of any other of these processes.
    """

    pid: int
    command_mib: float = 0.0
    worker_mib: float = 0.0
    _cpu_s: dict[int, float] = field(default_factory=dict)

    def look(self) -> list[psutil.Process]:
        """Note memory and time of all processes; return those that processes of the command started."""
        found: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.pid)
            found = own.children(recursive=True)
            for process in (own, *found):
                with suppress(psutil.Error):
                    times, memory = process.cpu_times(), process.memory_info().rss / 2**20
                    self._cpu_s[process.pid] = times.user + times.system
                    name = "command_mib" if process is own else "worker_mib"
                    setattr(self, name, max(getattr(self, name), memory))
        workers = []
        for process in found:
            with suppress(psutil.NoSuchProcess):
                workers += [process] if process.ppid() != self.pid else []
        return workers

    @property
    def cpu_s(self) -> float:
        """Processor time of all processes, at the last `look`."""
        return sum(self._cpu_s.values())


def disk_mib(folder: Path) -> float:
    """Return the size of all files below `folder` in MiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
