"""The store under several processes, and under one that is killed: real ones, without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from squeeze_cli.features.store import FeatureStore, StoreKey, choose_spaces, remove_space
from tests.conftest import ROOT

KEY = StoreKey("b", "w", "features", "p", "32")
WRITER = """
import sys
from pathlib import Path
import numpy as np
from squeeze_cli.features import shards
from squeeze_cli.features.store import FeatureStore, StoreKey

cache, name, parts = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = FeatureStore(cache, StoreKey("b", "w", "features", "p", "32"))

def add(part):
    value = int(name) + part
    states = np.full((3, 4, 2, 5), value, np.float32)
    store.add([f"{name}-{part}-{i}" for i in range(3)], states)

print("ready", flush=True)
sys.stdin.readline()
for part in range(parts):
    add(part)
"""
# The writer stops half way through its second shard, as if the disk were slow.
STUCK_WRITER = (
    WRITER
    + """
import os, time

def half(descriptor):
    os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
    print("half", flush=True)
    time.sleep(600)

os.fsync = half
add(parts)
"""
)


def start(program: str, cache: Path, name: str, parts: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(cache), name, str(parts)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def release(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_can_fill_a_store_at_once(tmp_path: Path) -> None:
    writers = [start(WRITER, tmp_path, name, 20) for name in ("100", "200")]
    assert [read_line(writer) for writer in writers] == ["ready", "ready"]
    for writer in writers:
        release(writer)
    assert [writer.wait(120) for writer in writers] == [0, 0]
    store = FeatureStore(tmp_path, KEY)
    wanted = [f"{n}-{part}-{i}" for n in ("100", "200") for part in range(20) for i in range(3)]
    assert store.digests == set(wanted)
    assert store.damage == []
    assert list(store.folder.glob(".*")) == []
    found = store.read("200-7-2")
    assert found is not None
    assert np.all(found == 207)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_process_killed_half_way_leaves_what_it_had_finished(tmp_path: Path) -> None:
    writer = start(STUCK_WRITER, tmp_path, "300", 2)
    assert read_line(writer) == "ready"
    release(writer)
    assert read_line(writer) == "half"
    os.kill(writer.pid, signal.SIGKILL)
    assert writer.wait(60) == -signal.SIGKILL
    store = FeatureStore(tmp_path, KEY)
    (part,) = store.folder.glob(".*.part")  # the half that counts for nothing
    assert store.digests == {f"300-{part}-{i}" for part in range(2) for i in range(3)}
    assert store.damage == []
    long_ago = time.time() - 7200
    os.utime(part, (long_ago, long_ago))
    FeatureStore(tmp_path, KEY)
    assert not part.exists()


def test_a_space_deleted_under_a_reader_keeps_what_it_opened_and_takes_new_rows(
    tmp_path: Path,
) -> None:
    store = FeatureStore(tmp_path, KEY)
    states = np.full((1, 4, 2, 5), 7, np.float32)
    store.add(["a"], states)
    store.refresh()
    remove_space(tmp_path, choose_spaces(tmp_path, None)[0])
    assert not store.folder.exists()
    found = store.read("a")
    assert found is not None
    assert np.array_equal(found[None], states)
    store.add(["b"], states)
    assert FeatureStore(tmp_path, KEY).digests == {"b"}
