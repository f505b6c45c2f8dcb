"""How torch's threads wait for each other, set before torch is imported."""

from __future__ import annotations

import os

# Of libgomp's manual: busy rounds before a waiting thread gives its core away.
_ROUNDS = "5000"


def share_cores() -> None:
    """Let threads that wait give their cores to other processes soon, unless the user says how.

    libgomp's own 300,000 rounds are milliseconds: two trainings at once on two cores wait for each
    other's waiting threads, and take ten times as long as one. After 5,000 a training alone is as
    quick, and two at once take little more than two in turn.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _ROUNDS)
