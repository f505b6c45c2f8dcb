"""Worker processes that read images: without room in shared memory, and killed."""

from __future__ import annotations

import os
import shutil
import signal
import sys

import pytest
from torch.utils.data import get_worker_info

from squeeze_cli.data import images
from squeeze_cli.data.images import workers_with_room
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.features import datamodule
from tests.conftest import Squeeze

pytestmark = pytest.mark.skipif(not images.SHARED_MEMORY.is_dir(), reason="no /dev/shm here")
TRAIN = (
    "train", "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "12", "--batch-size", "4", "--epochs", "1", "--max-batches", "1", "--no-cache",
    "--no-progress", "--name", "it",
)  # fmt: skip
MIB = 2**20


def room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)


@pytest.mark.parametrize(
    ("free", "workers"), [(0, 0), (256 * 1024, 0), (9 * MIB, 2), (64 * MIB, 8)]
)
def test_as_many_workers_as_shared_memory_has_room_for(
    monkeypatch: pytest.MonkeyPatch, free: int, workers: int
) -> None:
    room(monkeypatch, free)
    assert workers_with_room(8, MIB) == workers
    assert workers_with_room(0, MIB) == 0


@pytest.mark.slow
def test_without_room_images_are_read_by_the_process_itself(
    squeeze: Squeeze, monkeypatch: pytest.MonkeyPatch
) -> None:
    room(monkeypatch, 100)
    done = squeeze(*TRAIN, "--num-workers", "2")
    assert "/dev/shm has room for 0 of 2 processes that read images" in done.stderr
    assert "--shm-size" in done.stderr


@pytest.mark.parametrize("error", [RuntimeError("a mistake"), RecursionError("too deep")])
def test_other_errors_of_a_program_stay_what_they_are(
    squeeze: Squeeze, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("squeeze_cli.commands.compare.read_runs", fail)
    with pytest.raises(type(error), match=str(error)):
        squeeze("compare", ".")


def test_a_user_without_a_home_is_told(squeeze: Squeeze, monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    def fail(*arguments: object, **others: object) -> None:
        raise RuntimeError("could not determine the home directory for '~/.cache', set HOME")

    monkeypatch.setattr(platformdirs, "user_cache_path", fail)
    told = squeeze("cache", "ls", code=1).stderr
    assert told == "Error: This user has no home folder: set HOME to a folder.\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_worker_that_is_killed_is_one_line(
    squeeze: Squeeze, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """As for want of memory, or of shared memory."""
    whole = datamodule.label_plane

    def dies(sample: Sample, preprocessing: Preprocessing) -> object:
        if get_worker_info() is not None:
            os.kill(os.getpid(), number)
        return whole(sample, preprocessing)

    monkeypatch.setattr(datamodule, "label_plane", dies)
    done = squeeze(*TRAIN, "--num-workers", "1", code=1)
    assert done.stderr.splitlines()[-1] == (
        "Error: A process that reads images has ended: memory, or /dev/shm, is full; free some, or "
        "use fewer --num-workers (0 for none)."
    )
    resumed = squeeze("train", "--resume", "--name", "it", code=1)
    assert "Traceback" not in resumed.stderr
