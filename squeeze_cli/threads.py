"""How torch's threads wait for each other, set before torch is imported."""

from __future__ import annotations

import os

# Of libgomp's manual: busy rounds before a waiting thread gives its core away.
ROUNDS = "10000"


def share_cores() -> None:
    """Let threads that wait give their cores to other processes soon, unless the user says how.

    libgomp's own 300,000 rounds are milliseconds: two trainings at once on two cores wait for each
    other's waiting threads, and take ten times as long as one. With 10,000 they take a third of
    that, and one alone hardly longer (docs/performance.md).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", ROUNDS)
