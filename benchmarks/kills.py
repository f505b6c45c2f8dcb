"""Results of commands that are killed at chosen moments and repeated, which must not differ.

    python -m benchmarks.kills --per-window 25

A window lies between two events of a command, such as the appearance of a file; the moment is drawn
within it. Afterwards `--resume`, or the same command if there is no record yet, must succeed, and write
the same bytes as an undisturbed run: codes, prior, figures, embeddings and masks, and metrics and digest
in the record. Processes are forked from one that has imported the packages, except for the window in
which they are imported. Shards are small, so that there are several of each kind.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import figures_table, show

EXECUTABLE = Path(sys.executable).parent / "squeeze"
TRAIN = (
    "train --quantizer vq --codebook-size 16 --model efficientnet-lite0 --dataset synthetic "
    "--image-size 64 --subset-size 20 --batch-size 4 --epochs 3 --num-workers 0 --no-progress "
    "--cache-dir cache --name it"
)
# The commands by name, in the order in which each needs what the ones before wrote.
COMMANDS = {
    "train": TRAIN,
    "codes": "extract-embeddings runs/it --images images --num-workers 0 --no-progress --out codes",
    "features": "extract-embeddings runs/it --split all --format features --no-progress --out maps",
    "decode": "decode codes --run runs/it --to features --no-progress --out decoded",
    "masks": "decode codes --run runs/it --to masks --no-progress --out masks",
}
# Files of the run that must have the same bytes, and fields of its record that must be equal.
SAME_FILES = ("codes/*", "prior.safetensors", "figures/*.png")
SAME_FIELDS = ("digest", "metrics", "history", "measured", "epochs", "status", "data", "model")
POLL_S = 0.0005
LIMIT_S = 300.0


@dataclass(frozen=True)
class Window:
    """A part of a command: from the existence of `begins` until that of `ends`.

    Both are patterns of files; an empty one is the start or the end of the process. `longest_s`
    bounds the delay where the end is no file.
    """

    name: str
    command: str
    begins: str = ""
    ends: str = ""
    longest_s: float | None = None


WINDOWS = (
    Window("importing packages", "train", "", "runs/it/run.json"),
    Window("reading images", "train", "runs/it/run.json", "cache/features/*/space.json"),
    Window("filling the store", "train", "cache/features/*/space.json", longest_s=0.05),
    Window(
        "first epoch", "train", "cache/features/*/*.safetensors", "runs/it/checkpoints/best.ckpt"
    ),
    Window("writing a checkpoint", "train", "runs/it/checkpoints/.squeeze-*.part", longest_s=0.004),
    Window("later epochs", "train", "runs/it/checkpoints/last.ckpt", "runs/it/codes"),
    Window("fitting the prior", "train", "runs/it/codes/first_batch.*", "runs/it/prior.*"),
    Window("writing codes", "train", "runs/it/prior.*", "runs/it/codes/test.*"),
    Window("drawing figures", "train", "runs/it/codes/test.*"),
    Window("extracting codes", "codes", "codes/codes-00000.*"),
    Window("extracting features", "features", "maps/features-00000.*"),
    Window("decoding features", "decode", "decoded/quantized-00000.*"),
    Window("decoding masks", "masks", "masks/*.png"),
)


def serve(command: str, folder: str) -> None:
    """Run a command line in `folder`, in a process that was forked for it, with small shards."""
    from squeeze_cli.__main__ import main
    from squeeze_cli.features import prepare
    from squeeze_cli.inference import plan

    _enter(folder)
    multiprocessing.set_start_method("fork", force=True)  # as in a process of its own
    plan.IMAGES_PER_SHARD, plan.EMBEDDING_SHARD_BYTES = 8, 160_000
    prepare.SHARD_BYTES = 80_000
    sys.argv = ["squeeze", *command.split()]
    main()


class Place:
    """A folder in which the commands run; it starts with the files of earlier commands.

    `executable` runs the real executable in place of a forked process.
    """

    def __init__(self, folder: Path, stock: Path | None = None) -> None:
        self.folder = folder
        if stock is not None:
            shutil.copytree(stock, folder)

    def start(self, command: str, *, executable: bool = False) -> BaseProcess:
        """Start a command line."""
        if executable:
            target, arguments = _execute, (command, str(self.folder))
        else:
            target, arguments = serve, (command, str(self.folder))
        process = _context().Process(target=target, args=arguments)
        process.start()
        return process

    def finish(self, command: str) -> float:
        """Run a command line to its end; return the seconds, or raise RuntimeError with its output."""
        began = time.perf_counter()
        process = self.start(command)
        process.join(LIMIT_S)
        if process.exitcode != 0:
            process.kill()
            raise RuntimeError(f"{command}: {process.exitcode}\n{self.said()[-3000:]}")
        return time.perf_counter() - began

    def said(self) -> str:
        """Return all output so far."""
        log = self.folder / "log"
        return log.read_text(encoding="utf-8") if log.exists() else ""

    def again(self, window: Window) -> None:
        """Repeat a command that was stopped."""
        record = self.folder / "runs" / "it" / "run.json"
        command = COMMANDS[window.command]
        if window.command == "train" and record.exists():
            if json.loads(record.read_text(encoding="utf-8"))["status"] == "finished":
                return
            command = "train --resume --name it --no-progress"
        elif self.is_complete(window):
            return
        self.finish(command)

    def is_complete(self, window: Window) -> bool:
        """Return whether the command had written everything, so that it would be refused."""
        if window.command == "masks":
            return (self.folder / "masks" / "classes.yaml").exists()
        return window.command == "decode" and (self.folder / "decoded/manifest.json").exists()

    def results(self, command: str) -> dict[str, object]:
        """Return the results of a command that must not differ, by name."""
        run, found = self.folder / "runs" / "it", dict[str, object]()
        if command == "train":
            files = [file for pattern in SAME_FILES for file in sorted(run.glob(pattern))]
            record = json.loads((run / "run.json").read_text(encoding="utf-8"))
            found |= {name: record[name] for name in SAME_FIELDS}
        else:
            out = COMMANDS[command].split()[-1]
            files = [file for file in sorted((self.folder / out).rglob("*")) if file.is_file()]
        parts = sorted(str(part.relative_to(run)) for part in run.rglob(".*.part"))
        return found | {"parts": parts} | {
            str(file.relative_to(self.folder)): blake2b(file.read_bytes()).hexdigest()
            for file in files
        }  # fmt: skip


def _execute(command: str, folder: str) -> None:
    """Become the real executable."""
    _enter(folder)
    os.execv(EXECUTABLE, [str(EXECUTABLE), *command.split()])


def _enter(folder: str) -> None:
    """Work in `folder`, and write all output to a file there."""
    # Children inherit from a shell's background job that SIGINT is ignored, and from a server of workers
    # that it is blocked.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _context() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["squeeze_cli.commands.train", "squeeze_cli.commands.inference", "squeeze_cli.training.fit",
         "squeeze_cli.inference.extract", "squeeze_cli.inference.decode", "matplotlib.figure"]
    )  # fmt: skip
    return context


@contextmanager
def reference() -> Iterator[tuple[dict[str, Path], dict[str, float]]]:
    """Run all commands undisturbed.

    Gives for each command the folder as it was before it (and under "" as it is after all), and for
    each window its seconds.
    """
    # Another file system than that of TMPDIR, where there is one: renaming across the two fails.
    shared = Path("/dev/shm")
    os.environ["TMPDIR"] = str(shared) if shared.is_dir() else tempfile.gettempdir()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="squeeze-kills-", dir="/var/tmp") as base:
        place = Place(Path(base) / "reference")
        (place.folder / "images").mkdir(parents=True)
        draw = np.random.default_rng(0)
        for number in range(40):
            pixels = draw.integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(pixels).save(place.folder / "images" / f"{number}.png")
        stock: dict[str, Path] = {}
        seconds: dict[str, float] = {}
        for name, command in COMMANDS.items():
            stock[name] = shutil.copytree(place.folder, Path(base) / f"before-{name}")
            process = place.start(command)
            seconds |= _durations(process, place.folder, name)
            process.join(LIMIT_S)
            if process.exitcode != 0:
                raise RuntimeError(f"{command}\n{place.said()}")
        yield stock | {"": place.folder}, seconds


def _durations(process: BaseProcess, folder: Path, command: str) -> dict[str, float]:
    """Wait for the end of a command; return how long each of its windows lasted."""
    began = time.perf_counter()
    windows = [window for window in WINDOWS if window.command == command]
    met: dict[str, float] = {"": 0.0}
    patterns = {pattern for window in windows for pattern in (window.begins, window.ends)} - {""}
    while process.is_alive():
        for pattern in patterns - met.keys():
            if any(folder.glob(pattern)):
                met[pattern] = time.perf_counter() - began
        time.sleep(POLL_S)
    end = time.perf_counter() - began
    return {
        window.name: window.longest_s
        or (met[window.ends] if window.ends else end) - met.get(window.begins, end)
        for window in windows
    }


def stop(
    place: Place, window: Window, seconds: float, number: int, draw: random.Random
) -> int | None:
    """Send a signal at a moment drawn from the window; return the exit code, None if it came too late."""
    importing = window is WINDOWS[0]
    process = place.start(COMMANDS[window.command], executable=importing)
    if importing:
        seconds = import_seconds()
    while process.is_alive() and window.begins and not any(place.folder.glob(window.begins)):
        time.sleep(0 if window.longest_s else POLL_S)
    moment = time.perf_counter() + draw.uniform(0, seconds)
    while process.is_alive() and time.perf_counter() < moment:
        if window.ends and any(place.folder.glob(window.ends)):
            break  # it was faster than the undisturbed one: the end of the window is in it, too
        time.sleep(POLL_S)
    alive = process.is_alive()
    if alive and process.pid is not None:
        # The server of forked processes takes an ended one off the list of processes at any moment.
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
    process.join(LIMIT_S)
    return process.exitcode if alive and process.exitcode != 0 else None


_import_seconds: list[float] = []


def import_seconds() -> float:
    """Return how long the packages of a training take to be imported."""
    if not _import_seconds:
        began = time.perf_counter()
        command = [sys.executable, "-c", "import squeeze_cli.training.fit"]
        subprocess.run(command, check=True)
        _import_seconds.append(time.perf_counter() - began)
    return _import_seconds[0]


def try_window(
    window: Window,
    stock: dict[str, Path],
    seconds: float,
    draw: random.Random,
    number: int = signal.SIGKILL,
) -> tuple[int, list[str]]:
    """Stop a command once in a window, and repeat it.

    Returns the exit code of the stopped command, and the names of results that differ. What came too
    late is tried again.
    """
    for _ in range(20):
        with tempfile.TemporaryDirectory(dir=stock[""].parent) as base:
            place = Place(Path(base) / "place", stock[window.command])
            code = stop(place, window, seconds, number, draw)
            if code is None:
                continue
            place.again(window)
            whole, found = (each.results(window.command) for each in (Place(stock[""]), place))
            names = sorted(whole.keys() | found.keys())
            return code, [name for name in names if whole.get(name) != found.get(name)]
    raise RuntimeError(f"{window.name}: the process always ended before the signal")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--per-window", type=int, default=25, metavar="N")
    parser.add_argument("--windows", nargs="+", choices=[w.name for w in WINDOWS], metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    headings = ("killed while", "kills", "finished when given again", "other results")
    table = figures_table("Kills", headings)
    draw = random.Random(options.seed)
    rows = []
    with reference() as (stock, seconds):
        for window in WINDOWS:
            if options.windows and window.name not in options.windows:
                continue
            differing, failed = [], []
            for _ in range(options.per_window):
                try:
                    _, names = try_window(window, stock, seconds[window.name], draw)
                    differing += [names] if names else []
                except RuntimeError as error:
                    failed.append(str(error))
            kills = options.per_window
            table.add_row(window.name, str(kills), str(kills - len(failed)), str(len(differing)))
            rows.append(
                {"window": window.name, "kills": kills, "failed": failed, "other": differing}
            )
            print(f"{window.name}: {kills} kills, {failed=}, {differing=}", file=sys.stderr)
    show(table, {"seed": options.seed, "windows": rows}, options.json)


if __name__ == "__main__":
    main()
