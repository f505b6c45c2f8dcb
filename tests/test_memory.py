from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Blocks of 8 MiB, as a step's planes are, taken and given back: pages that came anew.
PROGRAM = """
import resource, sys
import numpy as np
from squeeze_cli.memory import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
def step():
    blocks = [np.ones(2**20) for _ in range(4)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> tuple[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's setting")
def test_freed_memory_stays_with_the_process() -> None:
    kept, faults = page_faults("keep")
    assert kept == "True"
    assert faults < 100
    assert page_faults("give back")[1] > 1000
