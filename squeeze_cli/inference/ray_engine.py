"""The engine `ray`: actors on the machines of a Ray cluster make the shards of a plan."""

import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from squeeze_cli.console import Advance
from squeeze_cli.data.images import MOST_WORKERS, available_cores
from squeeze_cli.errors import SqueezeError, one_line
from squeeze_cli.inference.engines import MOST_ATTEMPTS, Made, failure
from squeeze_cli.inference.plan import Shard
from squeeze_cli.inference.shard import Job, ShardMaker

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorClass, ActorHandle

# A person hears of workers that are not there yet after this time.
PATIENCE_S = 10.0
_SHARED = "all machines need the same files, and the same versions of squeeze and Ray"


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and how much of it is used.

    Attributes:
        address: `auto` for one that this machine belongs to, `local` to start one, `HOST:PORT`, or
            `ray://HOST:PORT`.
        workers: Number of workers; None takes one per CPU, or per GPU where there are some.
        gpus: GPUs per worker; None takes one where the cluster has some.
    """

    address: str = "auto"
    workers: int | None = None
    gpus: float | None = None


def make_on_ray(
    job: Job, shards: Iterator[Shard], most: int, cluster: Cluster, advance: Advance,
    say: Callable[[str], None],
) -> Generator[Made]:  # fmt: skip
    """Make shards, `most` at once, by workers of a Ray cluster, as they come; each opens the run once.

    A worker that is lost, with its machine or alone, is replaced, and its shard is made again. Raises
    what a worker raises, and SqueezeError where there is no cluster, and for a shard whose workers are
    lost `MOST_ATTEMPTS` times.
    """
    if (first := next(shards, None)) is None:
        return  # nothing is asked of a cluster
    with _connected(cluster.address):
        import ray
        from ray.exceptions import RayError, RayTaskError

        pool = _Pool(*_divided(job, cluster, most), chain([first], shards))
        try:
            while pool.give():
                done, _ = ray.wait(list(pool.busy), timeout=PATIENCE_S)
                if not done and not pool.is_ready:
                    say("Waiting for workers of the Ray cluster.")
                    pool.is_ready = True  # said once
                for each in done:
                    work = pool.busy.pop(each)
                    try:
                        made: Made | None = ray.get(each)
                    except RayTaskError as error:
                        if isinstance(error.cause, SqueezeError):
                            raise error.cause from None
                        reason = one_line(error.cause)
                        raise SqueezeError(
                            f"A worker of Ray failed ({reason}): {_SHARED}."
                        ) from error
                    except RayError as error:
                        # The worker is lost, or with its machine what it made.
                        pool.replace(work, error)
                        continue
                    pool.idle.append(work.actor)
                    pool.is_ready = True
                    if work.shard is not None and made is not None:
                        advance(len(work.shard.samples), "")
                        yield made
        finally:
            pool.end()


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect with a Ray cluster while the block runs, unless this process is connected already."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers would be installed anew
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise SqueezeError('Ray is missing: `pip install "squeeze-cli[ray]"`.') from None
    if ray.is_initialized():
        yield
        return
    own = {"num_cpus": available_cores(), "include_dashboard": False} if address == "local" else {}
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address  # as Ray does
    host, _, port = address.removeprefix("ray://").rpartition(":")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), PATIENCE_S).close()
        ray.init(address, log_to_driver=False, logging_level="ERROR", **own)
    except Exception as error:  # of many kinds
        raise SqueezeError(
            f"Cannot use the Ray cluster {address} ({one_line(error)}): start one by `ray start "
            "--head`, name it by --address, or take --engine local."
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray has replaced it
    try:
        yield
    finally:
        ray.shutdown()


def _divided(job: Job, cluster: Cluster, most: int) -> tuple["ActorClass", Job, int]:
    """Return the class of actors with what each needs of the cluster, its job, and their number."""
    import ray

    there = ray.cluster_resources()
    gpus, cpus = cluster.gpus, int(there.get("CPU", 1))
    if gpus is None:
        gpus = float("GPU" in there and job.values.get("training.device") != "cpu")
    room = int(there.get("GPU", 0) // gpus) if gpus else cpus
    threads = max(1, min(MOST_WORKERS, cpus // max(1, room))) if gpus else 1
    values = {**job.values, "training.device": "cuda" if gpus else "cpu"}
    kind = ray.remote(num_cpus=threads, num_gpus=gpus)(_Worker)
    workers = max(1, min(most, cluster.workers or room))
    return kind, replace(job, values=values, threads=threads), workers


class _Worker:
    """An actor, which opens the run once."""

    def __init__(self, job: Job, folder: Path) -> None:
        os.chdir(folder)  # places may be relative to it
        self._job = job
        self._maker: ShardMaker | None = None

    def open(self) -> None:
        """Open the run."""
        self._maker = self._job.open()

    def make(self, shard: Shard) -> Made:
        """Make a shard."""
        assert self._maker is not None
        return self._maker.extract_shard(shard)


@dataclass(frozen=True)
class _Work:
    """An actor at work: on a shard, or opening the run where that is None, for the `attempt`-th time."""

    actor: "ActorHandle"
    shard: Shard | None
    attempt: int


class _Pool:
    """Actors at work and without work; Ray's own restarts would keep a shard for a lost machine.

    `is_ready` says whether any has opened the run.
    """

    def __init__(self, kind: "ActorClass", job: Job, workers: int, shards: Iterator[Shard]) -> None:
        self._kind, self._job, self._shards = kind, job, shards
        self._lost: deque[tuple[Shard, int]] = deque()
        self.busy: dict[ObjectRef, _Work] = {}
        self.idle: list[ActorHandle] = []
        self.is_ready = False
        for _ in range(workers):
            self._start()

    def _start(self, attempt: int = 1) -> None:
        actor = self._kind.remote(self._job, Path.cwd())
        self.busy[actor.open.remote()] = _Work(actor, None, attempt)

    def give(self) -> bool:
        """Give a shard to each actor without work; False where all shards are made."""
        while self.idle:
            task = self._lost.popleft() if self._lost else (next(self._shards, None), 1)
            if task[0] is None:
                return any(work.shard for work in self.busy.values())
            actor = self.idle.pop()
            self.busy[actor.make.remote(task[0])] = _Work(actor, *task)
        return True

    def replace(self, work: _Work, error: Exception) -> None:
        """Start an actor in place of one that is lost, and have its shard made again."""
        if work.attempt == MOST_ATTEMPTS:
            if work.shard is not None:
                raise SqueezeError(failure(work.shard)) from error
            raise SqueezeError(
                f"No worker of Ray begins ({one_line(error)}): {_SHARED}."
            ) from error
        if work.shard is not None:
            self._lost.append((work.shard, work.attempt + 1))
        self._kill(work.actor)
        self._start(work.attempt + 1 if work.shard is None else 1)

    def end(self) -> None:
        """End all actors."""
        for actor in [*self.idle, *(work.actor for work in self.busy.values())]:
            self._kill(actor)

    @staticmethod
    def _kill(actor: "ActorHandle") -> None:
        import ray

        ray.kill(actor)
