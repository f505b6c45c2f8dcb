"""The engine `ray`: real clusters of this machine, one of which loses a node."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from squeeze_cli.errors import SqueezeError
from squeeze_cli.inference.ray_engine import make_on_ray
from squeeze_cli.inference.request import Extraction
from tests.conftest import Squeeze
from tests.pets import noise_image
from tests.places import served

RUN = str(Path(__file__).parent / "older_runs" / "vq")
EXTRACT = ("extract-embeddings", RUN, "--images-per-shard", "3", "--images")


class Slow:
    """Holds the files of a server back, from the seventh on, until it is told to let them go."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.released = threading.Event()

    def __call__(self, path: str) -> bool:
        is_slow = path >= "/06" and not self.released.is_set()
        if is_slow:
            self.held.add(path)
        return is_slow


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_makes_the_files_of_one_process(
    squeeze_here: Squeeze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    from ray.cluster_utils import Cluster as TestCluster

    for number in range(18):
        noise_image(40, 31, number).save(tmp_path / f"{number:02d}.jpg")
    (tmp_path / "08.jpg").write_text("no image")
    slow, lost = Slow(), []
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    head = {**node, "include_dashboard": False}
    cluster = TestCluster(initialize_head=True, head_node_args=head)
    second = cluster.add_node(**node)

    def lose_node() -> None:
        """Remove the second node once both workers are in the middle of a shard."""
        end = time.monotonic() + 120
        while len({int(path[1:3]) // 3 for path in slow.held}) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        cluster.remove_node(second)
        lost.extend(slow.held)
        slow.released.set()

    with served(tmp_path, slow) as server:
        lines = [f"{number:02d}\t{server}/{number:02d}.jpg\n" for number in range(18)]
        (tmp_path / "list.txt").write_text("".join(lines))
        threading.Thread(target=lose_node, daemon=True).start()
        try:
            ray = ("--engine", "ray", "--address", cluster.address)
            done = squeeze_here(*EXTRACT, "list.txt", "--out", "ray", *ray, "--no-progress")
        finally:
            slow.released.set()
            cluster.shutdown()
        squeeze_here(*EXTRACT, "list.txt", "--out", "one", "--num-workers", "0")
    assert len(lost) == 2
    assert "ray::" not in done.stderr
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert len(files) == 2 * 6 + 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "ray").iterdir()} == files


def test_ray_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SqueezeError, match=r'pip install "squeeze-cli\[ray\]"'):
        next(make_on_ray(None, iter([1]), 1, Extraction(), print, print))
