"""Figures drawn in a process of their own, beside the work that they are about.

Importing matplotlib and drawing three figures takes 1.3 seconds of one core. A training imports
torch meanwhile, and fits its prior: it waits for neither.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from squeeze_cli.errors import SqueezeError

# Where each figure is made; not imported here, for all of them import matplotlib.
FIGURES = {
    "codebook_figure": "squeeze_cli.reports.training_figures",
    "curves_figure": "squeeze_cli.reports.training_figures",
    "picture_grid": "squeeze_cli.reports.pictures",
}
# Small, so that drawing takes no notable part of a short training.
DPI = 100

Job = tuple[str, tuple[Any, ...], Path]


class DrawingProcess:
    """Draws figures from the moment it is made until `finish`, or the end of its block.

    It needs no orders to end: it leaves when its maker does, however that happens. Where matplotlib
    is imported already, `finish` draws here and no process is started.
    """

    def __init__(self) -> None:
        self._waiting: list[Job] = []
        self._process: subprocess.Popen[bytes] | None = None
        if "matplotlib.figure" not in sys.modules:
            with suppress(OSError):  # no process to be had
                self._process = _start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def draw(self, figure: str, *arguments: Any, path: Path) -> None:
        """Have `figure` (of `FIGURES`) of `arguments` drawn into the PNG at `path`, by and by."""
        job = (figure, arguments, path)
        if self._process is None:
            self._waiting.append(job)
            return
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `finish` tells why it went
            pickle.dump(job, self._process.stdin)
            self._process.stdin.flush()

    def finish(self) -> None:
        """Wait until everything is drawn; raises whatever went wrong in drawing."""
        if self._process is None:
            for job in self._waiting:
                _draw(*job)
            return
        process, self._process = self._process, None
        answer, _ = process.communicate()
        if answer:
            raise pickle.loads(answer)
        if process.returncode:
            raise SqueezeError(f"the drawing process ended with {process.returncode}")


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        # The very modules that this process would import.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the training, which may have figures to draw yet
    )


def _draw(figure: str, arguments: tuple[Any, ...], path: Path) -> None:
    from squeeze_cli.reports.figures import save_figure

    make = getattr(importlib.import_module(FIGURES[figure]), figure)
    save_figure(make(*arguments), path, DPI)


def _serve() -> None:
    """Draw what comes from stdin until its end; tell stdout of the error that ended it early."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for module in FIGURES.values():
            importlib.import_module(module)
        while True:
            try:
                job: Job = pickle.load(sys.stdin.buffer)
            except (EOFError, pickle.UnpicklingError):  # whole or cut off, the maker has ended
                return
            _draw(*job)
    except Exception as error:  # noqa: BLE001 - passed on
        sys.stdout.buffer.write(_pickled(error))
        raise SystemExit(1) from None


def _pickled(error: Exception) -> bytes:
    try:
        answer = pickle.dumps(error)
        pickle.loads(answer)
    except Exception:  # noqa: BLE001 - an error with arguments of its own
        answer = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return answer


if __name__ == "__main__":
    _serve()
