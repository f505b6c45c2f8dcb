"""The server process that worker processes are forked from."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager

# Workers cannot be forked from this process, which may have used CUDA and OpenMP. Where the system has
# no fork, each worker imports everything itself.
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
# The server that workers are forked from imports this module, and thereby all that they need.
PRELOADED = "squeeze_cli.inference.shard"


def start_server() -> None:
    """Start the server of a command, whose imports then run while this process does other things.

    It ends with this process. Ctrl-C is blocked in all processes that are forked from it, so only
    squeeze's own process, which ends them, may start it like this.
    """
    if START_METHOD == "forkserver":
        from multiprocessing import forkserver, resource_tracker

        resource_tracker.ensure_running()  # the server starts it otherwise, which unblocks Ctrl-C
        forkserver.set_forkserver_preload([PRELOADED])
        with without_interrupts():
            forkserver.ensure_running()


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Block Ctrl-C in processes that are started in this context; this process ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
