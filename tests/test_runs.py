from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.files import write_atomically
from squeeze_cli.runs import RunFolder, create_run, find_resumable
from tests import records
from tests.records import record


def write(folder: Path, name: str, status: str) -> RunFolder:
    return records.write(folder, name, record(0.5, status=status))


def test_record_and_back_with_version_and_time(tmp_path: Path) -> None:
    run = write(tmp_path, "a", "running")
    made = run.read_record()
    made.status = "failed"
    run.write_record(made)
    read = run.read_record()
    assert read.schema_version == 1
    assert read.status == "failed"
    assert read.updated is not None
    assert read.updated.endswith("+00:00")
    assert read.model_copy(update={"updated": None}) == made


def test_a_reader_never_sees_a_half_written_record(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    texts = [json.dumps({"fill": c * 200_000}) for c in "ab"]
    write_atomically(path, texts[0])
    stop = threading.Event()

    def keep_writing() -> None:
        while not stop.is_set():
            for text in texts:
                write_atomically(path, text)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        assert all(path.read_text() in texts for _ in range(200))
    finally:
        stop.set()
        writer.join()
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_trainings_that_start_together_get_names_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "runs", ".vq-vit-2.replaced", "finished")  # it comes back under its name
    start = threading.Barrier(8)

    def create(_: int) -> str:
        start.wait()
        return create_run(ExperimentConfig(output_dir=str(tmp_path / "runs")), False).name

    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(create, range(8)))
    assert names == {"vq-vit", *(f"vq-vit-{number}" for number in range(3, 10))}


def test_a_folder_that_is_no_run_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    config = ExperimentConfig(name="mine", output_dir=str(tmp_path))
    with pytest.raises(UsageError, match="is not a run's folder"):
        create_run(config, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize(
    "left", [(), (".lock",), (".lock", "config.yaml", ".squeeze-0a1b2c3d.part")]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_killed_before_its_record_leaves_its_name_free(
    tmp_path: Path, left: tuple[str, ...], overwrite: bool
) -> None:
    (tmp_path / "it").mkdir()
    for name in left:
        (tmp_path / "it" / name).touch()
    config = ExperimentConfig(name="it", output_dir=str(tmp_path))
    run = create_run(config, overwrite)
    assert run.path == tmp_path / "it"
    with run.locked():
        pass
    assert create_run(ExperimentConfig(output_dir=str(tmp_path)), overwrite).name == "vq-vit"


def test_a_name_is_not_free_while_a_replaced_run_waits_for_it(tmp_path: Path) -> None:
    write(tmp_path, ".it.replaced", "finished")
    (tmp_path / "it").mkdir()
    config = ExperimentConfig(name="it", output_dir=str(tmp_path))
    with pytest.raises(UsageError, match="--overwrite"):
        create_run(config, overwrite=False)
    create_run(config, overwrite=True).discard()
    assert RunFolder(tmp_path / "it").read_record().status == "finished"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_was_put_aside_comes_back(tmp_path: Path, overwrite: bool) -> None:
    """Killed after the older run was put aside, before or after the new folder was made."""
    config = ExperimentConfig(name="it", output_dir=str(tmp_path))
    for left in ((), (".lock", "config.yaml")):
        write(tmp_path, ".it.replaced", "finished")
        for name in left:
            (tmp_path / "it").mkdir(exist_ok=True)
            (tmp_path / "it" / name).touch()
        if overwrite:
            create_run(config, overwrite=True).discard()
        else:
            with pytest.raises(UsageError, match="--overwrite"):
                create_run(config, overwrite=False)
        assert RunFolder(tmp_path / "it").read_record().status == "finished"
        assert [path.name for path in tmp_path.iterdir()] == ["it"]
        shutil.rmtree(tmp_path / "it")


def test_no_folder_is_half_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while a folder is deleted: what is left is no run, and in nobody's way."""
    run = write(tmp_path, "it", "running")

    def die(folder: Path, **others: object) -> None:
        if folder.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            run.remove(run.path)
    assert [path.name for path in tmp_path.iterdir()] == [".it.removed"]
    again = create_run(ExperimentConfig(name="it", output_dir=str(tmp_path)), overwrite=False)
    again.remove(again.path)
    assert list(tmp_path.iterdir()) == []


def test_half_written_files_go_when_the_run_is_opened_again(tmp_path: Path) -> None:
    run = write(tmp_path, "it", "running")
    (run.path / "checkpoints").mkdir()
    for folder in (run.path, run.path / "checkpoints"):
        (folder / ".squeeze-0a1b2c3d.part").touch()
    with run.locked():
        assert list(run.path.rglob("*.part")) == []


HOLD = """
import sys, time
from pathlib import Path
from squeeze_cli.runs import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    run = write(tmp_path, "it", "running")
    config = ExperimentConfig(name="it", output_dir=str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SqueezeError, match="at work on"), run.locked():
            pass
        with pytest.raises(SqueezeError, match="at work on"):
            create_run(config, overwrite=True)
        holder.kill()
    assert (run.path / ".lock").exists()
    with run.locked(), pytest.raises(SqueezeError, match="at work on"), run.locked():
        pass
    assert not (run.path / ".lock").exists()
    assert create_run(config, overwrite=True).path.exists()


def test_a_place_that_cannot_be_written_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SqueezeError, match="check --output-dir"):
        create_run(ExperimentConfig(output_dir=str(tmp_path / "file")), overwrite=False)


def test_which_run_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(SqueezeError):
        find_resumable(tmp_path / "none", None)
    write(tmp_path, "done", "finished")
    with pytest.raises(UsageError, match="no unfinished run"):
        find_resumable(tmp_path, None)
    with pytest.raises(UsageError, match="nothing to resume"):
        find_resumable(tmp_path, "done")
    write(tmp_path, "a", "interrupted")
    assert find_resumable(tmp_path, None).name == "a"
    write(tmp_path, "b", "running")  # killed: it could not write another status
    with pytest.raises(UsageError, match="--name, one of a, b"):
        find_resumable(tmp_path, None)
    assert find_resumable(tmp_path, "b").name == "b"
