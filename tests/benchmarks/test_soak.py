"""One process that trains, encodes and decodes again and again keeps nothing of it."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from benchmarks.soak import calls, trainings


@pytest.mark.slow
def test_trainings_and_calls_keep_no_files_threads_or_processes(tmp_path: Path) -> None:
    gc.collect()  # frees what earlier tests have left, which would be freed at some later time
    counted = trainings(tmp_path, 5)
    after = counted + calls(tmp_path, 20)
    for name in ("open_files", "threads", "children"):
        assert {getattr(row, name) for row in after[1:]} == {getattr(after[0], name)}, name
    # Each quantizer's first training takes buffers of its own.
    assert after[-1].memory_mib < counted[0].memory_mib + 150
