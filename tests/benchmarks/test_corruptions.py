"""Files that were changed at random are reported, never read as something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.corruptions import attack, make_targets


@pytest.mark.slow
def test_no_corruption_is_read_wrongly(tmp_path: Path) -> None:
    for target in make_targets(tmp_path):
        outcomes, faults = attack(target, 60, seed=1)
        assert not faults, faults
        assert outcomes["reported"] > 50  # some change nothing
