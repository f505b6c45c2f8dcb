"""Shards of an extraction: the same bytes whoever makes them, made once, and by processes that die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from squeeze_cli import api
from squeeze_cli.codec.manifest import Settings
from squeeze_cli.console import no_advance
from squeeze_cli.data.encoded import EncodedImage
from squeeze_cli.data.samples import FileSample
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.files import locked
from squeeze_cli.inference.engines import make_in_workers
from squeeze_cli.inference.launch import Part, choose_part
from squeeze_cli.inference.plan import Shard, choose_images_per_shard
from squeeze_cli.inference.request import Extraction
from squeeze_cli.inference.shard import Job, ShardMaker
from tests.conftest import EXECUTABLE, Squeeze
from tests.pets import noise_image
from tests.places import served

RUN = Path(__file__).parent / "older_runs" / "vq"
IMAGES, PER_SHARD = 23, 4
BROKEN = "photo_05"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 images of several sizes in a folder, one of which is broken."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(IMAGES):
        noise_image(90 + number, 70, number).save(folder / f"photo_{number:02d}.jpg")
    (folder / f"{BROKEN}.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def undisturbed(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that one process makes."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    summary = extract(photographs, out, num_workers=0)
    assert (summary.images, summary.skipped_images, summary.shards) == (IMAGES - 1, 1, 6)
    return content_of(out)


def extract(images: Path, out: Path, **others: Any) -> api.ExtractionSummary:
    given = {"images_per_shard": PER_SHARD, "device": "cpu", "coding": "prior", **others}
    return api.extract(RUN, images=images, out=out, **given)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(photographs: Path, *others: str) -> list[str]:
    return [
        str(EXECUTABLE), "extract-embeddings", str(RUN), "--images", str(photographs), "--out", "out",
        "--images-per-shard", str(PER_SHARD), "--device", "cpu", "--coding", "prior",
        "--no-progress", *others,
    ]  # fmt: skip


def test_workers_make_the_files_that_one_process_makes(
    photographs: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    names = sorted(undisturbed)
    assert names == sorted(
        [f"codes-{n:05d}.{ending}" for n in range(6) for ending in ("json", "sqz")]
        + ["manifest.json"]
    )
    summary = extract(photographs, tmp_path / "workers", num_workers=3)
    assert summary.images == IMAGES - 1
    assert [each["name"] for each in summary.skipped] == [BROKEN]
    assert content_of(tmp_path / "workers") == undisturbed


@pytest.mark.parametrize(
    ("images", "most", "shards"),
    [(1, 1000, [1]), (500, 1000, [500]), (501, 1000, [251, 250]), (1500, 1000, [375] * 4),
     (3000, 1000, [375] * 8), (8000, 1000, [1000] * 8), (9001, 1000, [1000] * 9 + [1]),
     (3000, 200, [200] * 15)],
)  # fmt: skip
def test_a_few_thousand_images_make_even_shards(images: int, most: int, shards: list[int]) -> None:
    size = choose_images_per_shard(images, most)
    sizes = [min(size, images - begin) for begin in range(0, images, size)]
    assert sizes == shards


def test_the_server_of_workers_starts_before_this_process_imports_torch(
    photographs: Path, tmp_path: Path
) -> None:
    arguments = command(photographs, "--num-workers", "2")[1:]
    code = (
        "import sys\n"
        "from squeeze_cli.inference import fork_server\n"
        "start = fork_server.start_server\n"
        "def start_and_tell():\n"
        "    print('torch' in sys.modules)\n"
        "    start()\n"
        "fork_server.start_server = start_and_tell\n"
        "from squeeze_cli.__main__ import main\n"
        "if __name__ == '__main__':\n"
        f"    sys.argv = ['squeeze', *{arguments}, '--quiet']\n"
        "    main()\n"
    )
    (tmp_path / "told.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "told.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "False"


def test_ctrl_c_while_the_server_of_workers_starts_prints_one_line(
    photographs: Path, tmp_path: Path
) -> None:
    """SIGINT reaches all processes of a terminal."""
    process = subprocess.Popen(
        command(photographs, "--num-workers", "2"), cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (children := psutil.Process(process.pid).children()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.strip()) == (130, "Error: interrupted.")
    psutil.wait_procs(children, timeout=30)
    assert not any(child.is_running() for child in children)


def test_several_threads_make_what_one_makes(photographs: Path, tmp_path: Path) -> None:
    for threads in (1, 0, 3):
        extract(photographs, tmp_path / str(threads), num_workers=threads, images_per_shard=IMAGES)
    assert content_of(tmp_path / "1") == content_of(tmp_path / "3") == content_of(tmp_path / "0")


def test_parts_and_a_merge_make_them_too(
    photographs: Path, undisturbed: dict[str, bytes], squeeze: Squeeze, tmp_path: Path
) -> None:
    """In an order of their own; only the last one finds all shards, and the merge finds the same."""
    out = tmp_path / "out"
    arguments = command(photographs, "--num-workers", "0", "--json")[1:]
    for done, index in enumerate((2, 0, 3, 1)):
        part = ("--shard-index", str(index), "--num-shards", "4")
        said = squeeze(*arguments, *part)
        told = json.loads(said.stdout)
        assert f"Part {index} of 4: " in said.stderr
        assert told["complete"] is (done == 3)
        assert (out / "manifest.json").exists() is (done == 3)
        if done < 3:
            assert told["shards"] == (2 if index < 2 else 1)
            assert "run the same extraction again" in squeeze("merge", "out", code=1).stderr
    assert content_of(out) == undisturbed
    (out / "manifest.json").unlink()
    (out / ".squeeze-00000000.part").touch()  # a killed process left it
    merged = json.loads(squeeze("merge", "out", "--json").stdout)
    assert (merged["images"], merged["skipped_images"], merged["shards"]) == (IMAGES - 1, 1, 6)
    assert content_of(out) == undisturbed


def test_more_parts_than_shards(photographs: Path, tmp_path: Path) -> None:
    summary = extract(photographs, tmp_path / "out", shard_index=8, num_shards=9)
    assert (summary.shards, summary.images, summary.complete) == (0, 0, False)
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_made_again(
    photographs: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, made = tmp_path / "out", []
    original = ShardMaker.extract_shard

    def extract_shard(self: ShardMaker, shard: Any, *others: Any) -> Any:
        made.append(shard.number)
        return original(self, shard, *others)

    monkeypatch.setattr(ShardMaker, "extract_shard", extract_shard)
    out.mkdir()
    for name, content in undisturbed.items():
        (out / name).write_bytes(content)
    again = {"num_workers": 0}
    assert extract(photographs, out, **again).images == IMAGES - 1
    assert made == []
    (out / "codes-00002.json").unlink()  # the record comes after its shard
    content = bytearray(undisturbed["codes-00004.sqz"])
    content[-1] ^= 1
    (out / "codes-00004.sqz").write_bytes(content)
    extract(photographs, out, **again)
    assert made == [2, 4]
    assert content_of(out) == undisturbed
    extract(photographs, out, overwrite=True, **again)
    assert made == [2, 4, *range(6)]
    assert content_of(out) == undisturbed


def test_images_that_changed_are_noticed_by_their_content(
    photographs: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(photographs, images)  # with the same times
    out.mkdir()
    for name, content in undisturbed.items():
        (out / name).write_bytes(content)
    os.utime(images / "photo_09.jpg")
    read = []
    original = FileSample.read
    monkeypatch.setattr(FileSample, "read", lambda self: read.append(self.name) or original(self))
    extract(images, out, num_workers=0)
    # Those of its shard, and the one that could not be read.
    assert sorted(read) == [f"photo_{number:02d}" for number in (5, 8, 9, 10, 11)]
    noise_image(90, 70, 99).save(images / "photo_09.jpg")
    with pytest.raises(UsageError, match=r"with different images, in shard 2\)"):
        extract(images, out, num_workers=0)
    assert content_of(out) == undisturbed
    noise_image(90, 70, 99).save(images / "photo_99.jpg")
    with pytest.raises(UsageError, match=r"with different images\)"):
        extract(images, out, num_workers=0)
    with pytest.raises(UsageError, match="with different images_per_shard"):
        extract(photographs, out, num_workers=0, images_per_shard=5)
    shutil.rmtree(images)
    images.mkdir()
    (images / "a.jpg").write_bytes(b"no image")
    with pytest.raises(SqueezeError, match=r"No image can be read, such as .*a\.jpg"):
        extract(images, tmp_path / "none", num_workers=0)
    assert not (tmp_path / "none").exists()


def test_each_image_is_opened_once(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and hearing and str(arguments[0]).endswith(".jpg"):
            opened.append(Path(arguments[0]).stem)

    hearing = True
    sys.addaudithook(hear)
    try:
        extract(photographs, tmp_path / "out", num_workers=0)
    finally:
        hearing = False
    assert sorted(opened) == [f"photo_{number:02d}" for number in range(IMAGES)]


def test_parts_work_side_by_side_and_a_shard_has_one_maker(
    photographs: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with locked(out, "", ".codes-00002.lock"):
        extract(photographs, out, num_workers=0, shard_index=1, num_shards=2)
        with pytest.raises(SqueezeError, match="Another process is at work"):
            extract(photographs, out, num_workers=0, shard_index=0, num_shards=2)
    with pytest.raises(UsageError, match="would remove shards of other parts"):
        extract(photographs, out, overwrite=True, shard_index=0, num_shards=2)
    assert extract(photographs, out, num_workers=0).complete
    assert content_of(out) == undisturbed


SLURM = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_NTASKS": "4"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "5",
         "SLURM_ARRAY_TASK_STEP": "2"}  # fmt: skip
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "3"}


@pytest.mark.parametrize(
    ("variables", "given", "wanted"),
    [
        ({}, {}, Part()),
        ({}, {"shard_index": 3, "num_shards": 8}, Part(3, 8)),
        (SLURM, {"shard_index": 3, "num_shards": 8}, Part(3, 8)),
        (SLURM, {"num_shards": 1}, Part()),
        (SLURM, {}, Part(2, 4, "SLURM_PROCID=2")),
        (ARRAY, {}, Part(2, 5, "SLURM_ARRAY_TASK_ID=7")),
        (SLURM | ARRAY, {}, Part(10, 20, "SLURM_ARRAY_TASK_ID=7 and SLURM_PROCID=2")),
        (TORCHRUN, {}, Part(1, 3, "RANK=1")),
        (SLURM | TORCHRUN, {}, Part(1, 3, "RANK=1")),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, {}, Part()),
        ({name: SLURM[name] for name in ("SLURM_PROCID", "SLURM_NTASKS")}, {}, Part()),
        ({"RANK": "1", "WORLD_SIZE": "3"}, {}, Part()),
        ({"SLURM_ARRAY_TASK_ID": "7"}, {}, Part()),
    ],
)
def test_the_part_of_a_process(
    variables: Mapping[str, str], given: dict[str, int], wanted: Part
) -> None:
    assert choose_part(Extraction(**given), variables) == wanted


def test_all_parts_together_are_all_shards() -> None:
    parts = [
        choose_part(
            Extraction(), ARRAY | SLURM | {"SLURM_ARRAY_TASK_ID": task, "SLURM_PROCID": process}
        )
        for task in ("3", "5", "7", "9", "11")
        for process in ("0", "1", "2", "3")
    ]
    assert sorted(n for part in parts for n in part.numbers(137)) == list(range(137))


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (SLURM | {"SLURM_PROCID": "4"}, "SLURM_PROCID=4 is not a part of SLURM_NTASKS=4"),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "13"}, "is not a part of"),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "8"}, "is not a part of"),
        (TORCHRUN | {"RANK": "-1"}, "not a whole number"),
    ],
)
def test_variables_that_contradict_each_other(variables: Mapping[str, str], words: str) -> None:
    with pytest.raises(SqueezeError, match=words):
        choose_part(Extraction(), variables)


@pytest.mark.parametrize(
    "given",
    [{"shard_index": 1}, {"num_shards": 2}, {"shard_index": 2, "num_shards": 2},
     {"images_per_shard": 0}],
)  # fmt: skip
def test_parts_that_mean_nothing(given: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Extraction(**given)


class DeadlySample(FileSample):
    """An image at which the process that reads it is killed, as for want of memory."""

    def read(self) -> EncodedImage:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_shard_at_which_workers_end_is_named(photographs: Path) -> None:
    """The other worker's shard is made meanwhile."""
    run = api.open_run(RUN, device="cpu")
    settings = Settings(
        content="codes", run="vq", run_digest=run.digest, source="images", plan="p", space="backbone",
        images_per_shard=2, coding="packed",
    )  # fmt: skip
    job = Job(RUN, {"training.device": "cpu"}, settings, 2, "images", 1)
    good, bad = (photographs / f"photo_0{number}.jpg" for number in (0, 1))
    shards = [Shard(0, [FileSample("good", good)]), Shard(1, [DeadlySample("bad", bad)])]
    made = make_in_workers(job, iter(shards), 2, no_advance)
    assert next(made) == ShardMaker(job, run).extract_shard(shards[0])
    with pytest.raises(SqueezeError, match=r"Shard 1 \(bad to bad\) failed 3 times"):
        next(made)


@pytest.fixture
def process(photographs: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """An extraction by two workers, of so many images that it does not end before it is stopped."""
    for number in range(200):
        (tmp_path / "many").mkdir(exist_ok=True)
        (tmp_path / "many" / f"{number:03d}.jpg").symlink_to(photographs / "photo_00.jpg")
    started = subprocess.Popen(
        command(tmp_path / "many", "--num-workers", "2"), cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    yield started
    if started.poll() is None:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def workers_of(process: subprocess.Popen[str], folder: Path) -> list[psutil.Process]:
    """Wait for the first shards; return the worker processes."""
    deadline = time.monotonic() + 120
    while not (folder / "codes-00001.json").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    started = psutil.Process(process.pid).children()  # among them the one that forks the workers
    return [worker for each in started for worker in each.children()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "whole_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGKILL, False, -9)],
)
def test_processes_that_die(
    process: subprocess.Popen[str],
    tmp_path: Path,
    number: signal.Signals,
    whole_group: bool,
    code: int,
) -> None:
    """A worker is killed, which costs nothing; then the command is stopped, and its workers end."""
    out = tmp_path / "out"
    first, second = workers_of(process, out)
    first.kill()
    made = {path.name: path.read_bytes() for path in out.glob("codes-*.sqz")}
    while len(list(out.glob("codes-*.json"))) < len(made) + 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    assert second.is_running()
    workers = workers_of(process, out)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    for name, content in made.items():
        assert (out / name).read_bytes() == content
    if number == signal.SIGINT:
        assert errors.splitlines() == ["Error: interrupted."]
        assert not list(out.glob(".*"))  # neither locks nor parts


@pytest.mark.slow
def test_an_image_that_can_be_read_again_is_in_its_shard(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server's failure is no property of an image; that of a file would change its stamp."""
    shutil.copytree(photographs, tmp_path / "here")
    away = tmp_path / "here" / "photo_09.jpg"
    with served(tmp_path) as address:
        names = [path.name for path in sorted((tmp_path / "here").iterdir())]
        images = tmp_path / "list.txt"
        images.write_text("".join(f"{Path(n).stem}\t{address}/here/{n}\n" for n in names))
        whole = extract(images, tmp_path / "whole", num_workers=0)
        away.rename(tmp_path / "away")
        less = extract(images, tmp_path / "out", num_workers=0)
        assert {each["name"] for each in less.skipped} == {BROKEN, "photo_09"}
        again = extract(images, tmp_path / "out", num_workers=0)
        assert again == less
        assert "made again" not in capsys.readouterr().err
        (tmp_path / "away").rename(away)
        summary = extract(images, tmp_path / "out", num_workers=0)
    assert summary.images == whole.images == less.images + 1
    assert "photo_09 can be read again: shard 2 is made again" in capsys.readouterr().err
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")
