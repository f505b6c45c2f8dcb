"""The engine `ray`: making of shards by actors on a Ray cluster."""

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
from squeeze_cli.inference.request import Extraction
from squeeze_cli.inference.shard import Job, ShardMaker

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorClass, ActorHandle

# Time until a message says that no worker has started, and until a connection fails.
PATIENCE_S = 10.0
_SHARED = "all machines need the same files, and the same versions of squeeze and Ray"


def make_on_ray(
    job: Job, shards: Iterator[Shard], most: int, request: Extraction, advance: Advance,
    say: Callable[[str], None],
) -> Generator[Made]:  # fmt: skip
    """Make shards in any order by at most `most` workers of a Ray cluster; each opens the run once.

    A lost worker is replaced, and its shard is made again. Raises the errors of workers, and SqueezeError
    if there is no cluster, and for a shard whose worker is lost `MOST_ATTEMPTS` times.
    """
    if (first := next(shards, None)) is None:
        return  # no cluster is needed
    with _connected(request.address or "auto"):
        import ray
        from ray.exceptions import RayError, RayTaskError

        pool = _Pool(*_divided(job, request, most), chain([first], shards))
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
                        raise SqueezeError(f"A Ray worker failed ({reason}): {_SHARED}.") from error
                    except RayError as error:
                        # The worker is lost, or its result is lost with its machine.
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
    """Connect to a Ray cluster in the context, unless this process is connected already."""
    # Otherwise each worker would install all packages again.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
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
            "--head`, name it by --address, or use --engine local."
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray has replaced it
    try:
        yield
    finally:
        ray.shutdown()


def _divided(job: Job, request: Extraction, most: int) -> tuple["ActorClass", Job, int]:
    """Return the class of actors with the resources of each, the job of each, and their number.

    By default there is an actor per GPU, or per CPU without GPUs.
    """
    import ray

    resources = ray.cluster_resources()
    gpus, cpus = request.gpus_per_worker, int(resources.get("CPU", 1))
    if gpus is None:
        gpus = float("GPU" in resources and job.values.get("training.device") != "cpu")
    most_workers = int(resources.get("GPU", 0) // gpus) if gpus else cpus
    threads = max(1, min(MOST_WORKERS, cpus // max(1, most_workers))) if gpus else 1
    values = {**job.values, "training.device": "cuda" if gpus else "cpu"}
    kind = ray.remote(num_cpus=threads, num_gpus=gpus)(_Worker)
    workers = max(1, min(most, request.num_workers or most_workers))
    return kind, replace(job, values=values, threads=threads), workers


class _Worker:
    """Actor that makes shards of a run, which it opens once."""

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
    """Task of an actor: making a shard, or opening the run if that is None, in the `attempt`-th try."""

    actor: "ActorHandle"
    shard: Shard | None
    attempt: int


class _Pool:
    """Busy and idle actors; they are not restarted by Ray, which would keep a shard for a lost machine.

    `is_ready` tells whether any actor has opened the run.
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
        """Assign a shard to each idle actor; return False when all shards are made."""
        while self.idle:
            task = self._lost.popleft() if self._lost else (next(self._shards, None), 1)
            if task[0] is None:
                return any(work.shard for work in self.busy.values())
            actor = self.idle.pop()
            self.busy[actor.make.remote(task[0])] = _Work(actor, *task)
        return True

    def replace(self, work: _Work, error: Exception) -> None:
        """Start an actor in place of a lost one, and queue its shard again."""
        if work.attempt == MOST_ATTEMPTS:
            if work.shard is not None:
                raise SqueezeError(failure(work.shard)) from error
            raise SqueezeError(f"No Ray worker starts ({one_line(error)}): {_SHARED}.") from error
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
