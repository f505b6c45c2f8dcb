"""Engine that makes the shards of a plan in worker processes.

An engine gets a job and an iterator of shards, and yields the bytes and the record of each. It asks for
a shard only when a worker is free.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import TYPE_CHECKING

from squeeze_cli.codec.manifest import ShardRecord
from squeeze_cli.console import Advance
from squeeze_cli.errors import SqueezeError
from squeeze_cli.inference.fork_server import PRELOADED, START_METHOD, without_interrupts

if TYPE_CHECKING:
    from squeeze_cli.inference.plan import Shard
    from squeeze_cli.inference.shard import Job, ShardMaker

Made = tuple[bytes, ShardRecord]
# Attempts to make a shard whose worker process ends.
MOST_ATTEMPTS = 3


def make_in_workers(
    job: Job, shards: Iterator[Shard], workers: int, advance: Advance, devices: Sequence[str] = ()
) -> Generator[Made]:
    """Make shards in worker processes of this machine, in any order; each worker opens the run once.

    If there are `devices`, by their names in CUDA_VISIBLE_DEVICES, each worker uses one. The workers end
    with this process, however it ends. Raises the errors of workers, and SqueezeError for a shard whose
    worker ends `MOST_ATTEMPTS` times.
    """
    device_of = [devices[number % len(devices)] if devices else "" for number in range(workers)]
    pools = [_start(job, device) for device in device_of]
    begun: dict[Future[Made], tuple[int, Shard, int]] = {}

    def begin(number: int, shard: Shard | None, attempt: int = 1) -> None:
        if shard is None:
            return
        try:
            future = _submit(pools[number], shard)
        except BrokenProcessPool:  # the process was killed, at its last shard or when it was idle
            pools[number] = _start(job, device_of[number])
            future = _submit(pools[number], shard)
        begun[future] = (number, shard, attempt)

    others = set(multiprocessing.active_children())
    try:
        for number in range(workers):
            begin(number, next(shards, None))
        while begun:
            for future in wait(begun, return_when=FIRST_COMPLETED).done:
                number, shard, attempt = begun.pop(future)
                try:
                    made = future.result()
                except BrokenProcessPool:
                    if attempt == MOST_ATTEMPTS:
                        raise SqueezeError(failure(shard)) from None
                    begin(number, shard, attempt + 1)
                    continue
                begin(number, next(shards, None))
                advance(len(shard.samples), "")
                yield made
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def failure(shard: Shard) -> str:
    """Return the message for a shard that no worker finishes."""
    names = [sample.name for sample in shard.samples]
    return (
        f"Shard {shard.number} ({names[0]} to {names[-1]}) failed {MOST_ATTEMPTS} times: its worker "
        "process ended, perhaps for lack of memory; use fewer --num-workers. In a script, extract below "
        '`if __name__ == "__main__":`.'
    )


def visible_devices() -> list[str]:
    """Return the names of the CUDA GPUs that this process may use."""
    import torch

    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (names or [str(number) for number in range(64)])[: torch.cuda.device_count()]


def _start(job: Job, device: str) -> ProcessPoolExecutor:
    """Return a pool of one process, so that a killed process affects no other worker."""
    context = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        context.set_forkserver_preload([PRELOADED])
    return ProcessPoolExecutor(1, context, _prepare, (job, device))


def _submit(pool: ProcessPoolExecutor, shard: Shard) -> Future[Made]:
    """Submit a shard to a pool, which may start its process for it."""
    with without_interrupts():
        return pool.submit(_make, shard)


class _Worker:
    """State of a worker process: its job, and the opened run."""

    job: Job
    maker: ShardMaker | None = None


def _prepare(job: Job, device: str) -> None:
    """Prepare a worker process, which ends as soon as its parent process has ended."""
    _Worker.job = job
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # it is read when CUDA is first used
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not sys.warnoptions:  # as in the command
        warnings.filterwarnings("ignore", module=r"PIL\.")
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for([parent.sentinel])
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _make(shard: Shard) -> Made:
    """Make a shard in a worker process, which opens the run for its first one."""
    if _Worker.maker is None:
        _Worker.maker = _Worker.job.open()
    return _Worker.maker.extract_shard(shard)
