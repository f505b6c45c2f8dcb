"""Memory of an extraction in shards, time of its plan, and kills of its processes and machines.

    python -m benchmarks.shards --plan 100000
    python -m benchmarks.shards --memory 1000 20000
    python -m benchmarks.shards --kills 20 --images 5000
    python -m benchmarks.shards --kills 20 --images 5000 --engine ray

The images are tiny and drawn: a few files of 48 pixels under many names. The run is one of
EfficientNet-Lite0 at 96 px that the tests decode, and two workers make its codes. Memory is the largest
resident set of the command and of any of its workers, sampled ten times per second. At random moments
after the first new shard, a worker or the command is killed (SIGKILL); the command is then repeated. With
`--engine ray` the workers belong to a cluster of two nodes of one CPU on this machine, and the second
node is killed too, and replaced by a new one.
In the end all files must have the bytes of an undisturbed extraction, and a shard that existed at a
kill must not have been written again.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from rich.table import Table

from benchmarks.machine import show
from benchmarks.processes import Family
from squeeze_cli.data.image_lists import list_place
from squeeze_cli.inference.plan import IMAGES_PER_SHARD, Plan, stamps_of

EXECUTABLE = Path(sys.executable).parent / "squeeze"
RUN = Path(__file__).resolve().parents[1] / "tests" / "inference" / "older_runs" / "vq"
DIFFERENT = 50  # images, each of which has many names
SAMPLE_S = 0.1


@contextmanager
def tiny_images(count: int) -> Iterator[Path]:
    """Make this number of tiny images, in folders of a thousand, and remove them in the end."""
    with tempfile.TemporaryDirectory(prefix="squeeze-benchmark-") as place:
        dice = np.random.default_rng(0)
        for number in range(DIFFERENT):
            pixels = dice.integers(0, 256, (48, 48, 3), np.uint8)
            Image.fromarray(pixels).save(Path(place) / f"{number}.png")
        for number in range(count):
            folder = Path(place) / "images" / f"{number // 1000:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:07d}.png").hardlink_to(Path(place) / f"{number % DIFFERENT}.png")
        yield Path(place)


def start(
    folder: Path, out: str, images_per_shard: int, engine: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Start the extraction of a folder of tiny images."""
    return subprocess.Popen(
        [EXECUTABLE, "extract-embeddings", RUN, "--images", "images", "--out", out, "--num-workers",
         "2", "--images-per-shard", str(images_per_shard), "--device", "cpu", "--quiet", *engine],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for the command; raises RuntimeError if it fails."""
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"ended with {process.returncode}: {errors[-2000:]}")


def peak_memory(count: int) -> dict[str, float]:
    """Return the largest resident MiB of the command and of a worker, and images per second."""
    with tiny_images(count) as folder:
        began = time.perf_counter()
        process = start(folder, "out", IMAGES_PER_SHARD)
        family = Family(process.pid)
        while process.poll() is None:
            family.look()
            time.sleep(SAMPLE_S)
        finish(process)
        rate = count / (time.perf_counter() - began)
    return {
        "command_mib": family.command_mib, "worker_mib": family.worker_mib, "images_a_second": rate,
    }  # fmt: skip


def plan_seconds(count: int) -> float:
    """Return the seconds to list the images of all shards with their sizes and times."""
    with tiny_images(count) as folder:
        began = time.perf_counter()
        plan = Plan(list_place(folder / "images").train, IMAGES_PER_SHARD)
        plan.digest()
        for number in range(len(plan)):
            stamps_of(plan.shard(number).samples)
        return time.perf_counter() - began


def contents(folder: Path) -> dict[str, bytes]:
    """All files of an output."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class LocalWorkers:
    """The engine `local`, whose workers the command starts."""

    kinds = ("worker", "command")
    arguments: Sequence[str] = ()

    def workers(self, command: int) -> list[psutil.Process]:
        """Return the workers of a command that runs."""
        return Family(command).look()

    def lose_node(self) -> None:
        """Raise NotImplementedError: there is one machine."""
        raise NotImplementedError

    def end(self) -> None:
        """Do nothing: the workers end with the command."""


class RayCluster:
    """A Ray cluster of two nodes with a CPU each, on the loopback address."""

    kinds = ("worker", "node", "command")
    _node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}  # noqa: RUF012 - never changed

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
        head = {**self._node, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._second = self._cluster.add_node(**self._node)
        self.arguments = ("--engine", "ray", "--address", self._cluster.address)

    def workers(self, command: int) -> list[psutil.Process]:
        """Return the actors' processes, by the title that Ray gives them."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                found += [process] if process.cmdline()[0].startswith("ray::_Worker") else []
        return found

    def lose_node(self) -> None:
        """Kill the second node with all of its processes, and add another."""
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = self._cluster.add_node(**self._node)

    def end(self) -> None:
        """Stop the cluster."""
        self._cluster.shutdown()


def kill(count: int, kills: int, seed: int, engine: LocalWorkers | RayCluster) -> dict[str, Any]:
    """Kill workers, nodes and commands; return how many of each, and what differs in the end."""
    draw = random.Random(seed)
    done = dict.fromkeys(engine.kinds, 0)
    written_again: set[str] = set()
    with tiny_images(count) as folder:
        began = time.perf_counter()
        finish(start(folder, "whole", 100))
        seconds = time.perf_counter() - began
        out, times = folder / "out", dict[str, int]()
        process = start(folder, "out", 100, engine.arguments)
        while sum(done.values()) < kills:
            before = len(list(out.glob("codes-*.json")))
            while process.poll() is None and len(list(out.glob("codes-*.json"))) == before:
                time.sleep(0.005)
            moment = time.perf_counter() + draw.uniform(0, seconds / 20)
            while process.poll() is None and time.perf_counter() < moment:
                time.sleep(0.005)
            if process.poll() is not None:  # it has ended before: all is there, and begins anew
                finish(process)
                for path in draw.sample(sorted(out.glob("codes-*.json")), 25):
                    path.unlink()
                    times.pop(path.name, None)
                process = start(folder, "out", 100, engine.arguments)
                continue
            there = {path.name: path.stat().st_mtime_ns for path in out.glob("codes-*.json")}
            written_again |= {name for name in times if there.get(name) != times[name]}
            times = there
            kind, workers = draw.choice(engine.kinds), engine.workers(process.pid)
            if kind == "worker" and workers:
                draw.choice(workers).kill()
            elif kind == "node":
                engine.lose_node()
            else:
                kind = "command"
                process.kill()
                process.wait()
                process = start(folder, "out", 100, engine.arguments)
            done[kind] += 1
        finish(process)
        whole, found = contents(folder / "whole"), contents(out)
        differing = sorted(n for n in whole.keys() | found.keys() if whole.get(n) != found.get(n))
    return {"kills": done, "files": len(whole), "differing": differing,
            "written_again": sorted(written_again), "undisturbed_seconds": seconds}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", type=int, metavar="N", help="plan N images")
    parser.add_argument("--memory", type=int, nargs="*", default=[], metavar="N")
    parser.add_argument("--kills", type=int, metavar="N", help="kill N times")
    parser.add_argument("--images", type=int, default=5000, metavar="N", help="images of --kills")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    if options.plan:
        figures[f"plan of {options.plan}"] = {"seconds": plan_seconds(options.plan)}
    for count in options.memory:
        figures[f"memory at {count}"] = peak_memory(count)
    if options.kills:
        engine = RayCluster() if options.engine == "ray" else LocalWorkers()
        try:
            figures["kills"] = kill(options.images, options.kills, options.seed, engine)
        finally:
            engine.end()
    table = Table(title="Shards", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("")
    for name, values in figures.items():
        for key, value in values.items():
            table.add_row(name, f"{key}: {f'{value:.1f}' if isinstance(value, float) else value}")
    show(table, figures, options.json)


if __name__ == "__main__":
    main()
