"""Real runs with the real SDK: against a server, offline, and with a server that dies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from squeeze_cli.trackers.credentials import ENVIRONMENT
from tests.conftest import EXECUTABLE
from tests.trackers.clearml_server import SECRET, ClearMLServer, token

RUN = (
    "train", "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "12", "--num-workers", "0", "--epochs", "1", "--name", "it",
)  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """As after logging in on a machine where nobody has used ClearML yet."""
    inherited = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT.values()}
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {**inherited, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "COLUMNS": "80",
            "XDG_CACHE_HOME": str(folder.parent / "cache"), "NO_PROXY": "127.0.0.1"}  # fmt: skip


def write_credentials(folder: Path, server: ClearMLServer) -> None:
    path = folder / "clearml_credentials.yaml"
    path.write_text(server.credentials_yaml())
    path.chmod(0o600)


@dataclass
class Done:
    """A run that has ended, and what it left."""

    folder: Path
    temporary: Path
    stdout: str
    stderr: str
    server: ClearMLServer

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "it"


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """One run with the older spellings of the flags."""
    folder, temporary = tmp_path_factory.mktemp("online"), tmp_path_factory.mktemp("temporary")
    with ClearMLServer() as server:
        write_credentials(folder, server)
        done = subprocess.run(
            [str(EXECUTABLE), *RUN, "--use_clearml", "--project_name", "Pets", "--task_name", "T",
             "--clearml-tag", "small", "--clearml_tag", "test", "--json"],
            cwd=folder, env={**environment(folder), "TMPDIR": str(temporary)}, capture_output=True,
            text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        yield Done(folder, temporary, done.stdout, done.stderr, server)


def tensorboard_scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {
        name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]
    }


def test_scalars_have_the_names_and_values_of_tensorboard(online: Done) -> None:
    sent = {
        k: v
        for k, v in online.server.scalars().items()
        if not k.startswith(("Summary/", ":monitor:"))
    }
    sent["epoch"] = sent.pop("epoch/epoch")
    written = tensorboard_scalars(online.run)
    assert sent.keys() == written.keys()
    assert {"train/loss", "val/iou", "test/accuracy", "val/codebook_usage"} <= sent.keys()
    for name, points in written.items():
        assert len(sent[name]) == len(points), f"{name} was sent twice or not at all"
        for (step, value), (sent_step, sent_value) in zip(points, sent[name], strict=True):
            assert step == sent_step
            assert sent_value == pytest.approx(value, rel=1e-6)


def test_the_task_knows_the_resolved_configuration(online: Done) -> None:
    task = online.server.task
    assert task["name"] == "T"
    assert online.server.project == "Pets"
    assert sorted(task["tags"]) == ["small", "test"]
    assert task["status"] == "completed"
    config = yaml.safe_load((online.run / "config.yaml").read_text())
    for section in ("quantizer", "model", "data", "training", "logger"):
        sent = {k: item["value"] for k, item in task["hyperparams"][section].items()}
        assert sent.keys() == config[section].keys()
    assert task["hyperparams"]["quantizer"]["codebook_size"]["value"] == "512"
    assert task["hyperparams"]["data"]["image_size"]["value"] == "64"


def test_files_arrive_whole(online: Done) -> None:
    stored = {Path(name).name: body for name, body in online.server.files.items()}
    keys = {artifact["key"] for artifact in online.server.task["execution"]["artifacts"]}
    assert {"config.yaml", "run.json", "codes/val.sqz"} <= keys
    for name in ("config.yaml", "run.json", "codes/val.sqz", "checkpoints/best.ckpt"):
        assert stored[Path(name).name] == (online.run / name).read_bytes(), name
    (model,) = (m for m in online.server.models.values() if m.get("name") == "it best")
    assert model["uri"].startswith(online.server.url)
    assert model["uri"].endswith("best.ckpt")
    assert 'type = "vq"' in model["design"]["design"]


def test_results_arrive_as_a_table_and_as_single_values(online: Done) -> None:
    record = json.loads((online.run / "run.json").read_text())
    plots = [e for e in online.server.events if e["type"] == "plot"]
    table = next(p for p in plots if (p["metric"], p["variant"]) == ("results", "metrics"))
    assert "test" in table["plot_str"]
    single = online.server.scalars()["Summary/test/iou"]
    assert single[0][1] == pytest.approx(record["metrics"]["test"]["iou"], rel=1e-6)


def test_the_task_records_command_packages_and_console_by_default(online: Done) -> None:
    script = online.server.task["script"]
    assert script["entry_point"].startswith("-m squeeze_cli train --model efficientnet-lite0")
    assert "clearml==" in json.dumps(script["requirements"])
    lines = "".join(e["msg"] for e in online.server.events if e["type"] == "log")
    assert "val/iou" in lines


def test_stdout_is_data_alone(online: Done) -> None:
    assert json.loads(online.stdout)["status"] == "finished"
    assert "ClearML task" in online.stderr
    assert online.server.url in online.stderr
    assert "Traceback" not in online.stderr


def test_the_secret_is_nowhere(online: Done) -> None:
    """Not in a file (but the credentials' own), a stream, or what the server was told."""
    told = json.dumps([online.server.tasks, online.server.models, online.server.events])
    needles = (SECRET, token())
    for needle in needles:
        assert needle not in online.stdout + online.stderr + told
        assert all(needle.encode() not in body for body in online.server.files.values())
    files = [f for root in (online.folder, online.folder.parent / "cache")
             for f in root.rglob("*") if f.is_file()]  # fmt: skip
    assert len(files) > 8
    for file in files:
        if file != online.folder / "clearml_credentials.yaml":
            content = file.read_bytes()
            assert all(needle.encode() not in content for needle in needles), file


def test_nothing_is_left_in_the_temporary_folder(online: Done) -> None:
    assert [f.name for f in online.temporary.iterdir() if "torch" not in f.name] == []


@pytest.mark.slow
def test_offline_records_a_session_that_clearml_imports(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(EXECUTABLE), *RUN, "--use-clearml", "--clearml-offline", "--no-auto-connect"],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    archive = tmp_path / "runs" / "it" / "clearml-offline.zip"
    assert str(archive.relative_to(tmp_path)) in done.stderr
    with zipfile.ZipFile(archive) as content:
        task = json.loads(content.read("task.json"))
        lines = content.read("metrics.jsonl").decode().splitlines()
        names = content.namelist()
    recorded = {f"{e['metric']}/{e['variant']}" for line in lines for e in json.loads(line)}
    assert {"train/loss", "val/iou", "test/accuracy"} <= recorded
    assert task["hyperparams"]["quantizer"]["type"]["value"] == "vq"
    keys = {artifact["key"] for artifact in task["execution"]["artifacts"]}
    assert keys >= {"config.yaml", "run.json", "codes/val.sqz", "checkpoints/best.ckpt"}
    assert any(name.endswith("val.sqz") for name in names)
    assert list((tmp_path / "home" / ".clearml" / "cache" / "offline").iterdir()) == []
    checkpoint = (tmp_path / "runs" / "it" / "checkpoints" / "best.ckpt").read_bytes()
    archive = archive.rename(tmp_path / "elsewhere.zip")
    shutil.rmtree(tmp_path / "runs")  # as on another machine
    with ClearMLServer() as server:
        code = "import sys, clearml; clearml.Task.import_offline_session(sys.argv[1])"
        imported = subprocess.run(
            [sys.executable, "-c", code, str(archive)], cwd=tmp_path,
            env={**environment(tmp_path), **server.environment()},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert imported.returncode == 0, imported.stderr
        assert "val/iou" in server.scalars()
        arrived = {Path(name).name: body for name, body in server.files.items()}
        assert json.loads(arrived["run.json"])["status"] == "finished"
        assert arrived["best.ckpt"] == checkpoint


@pytest.mark.parametrize("death", ["stop", "fall_silent"])
@pytest.mark.slow
def test_a_server_that_dies_holds_nothing_up(tmp_path: Path, death: str) -> None:
    with ClearMLServer() as server:
        write_credentials(tmp_path, server)
        process = subprocess.Popen(
            [str(EXECUTABLE), *RUN, "--use-clearml"], cwd=tmp_path, env=environment(tmp_path),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        finished: list[float] = []

        def watch() -> None:
            record = tmp_path / "runs" / "it" / "run.json"
            while process.poll() is None:
                if record.exists() and '"finished"' in record.read_text():
                    finished.append(time.monotonic())
                    return
                time.sleep(0.05)

        watcher = threading.Thread(target=watch)
        watcher.start()
        deadline = time.monotonic() + 300
        while "tasks.started" not in server.calls and time.monotonic() < deadline:
            time.sleep(0.02)
        getattr(server, death)()
        stdout, stderr = process.communicate(timeout=300)
        ended = time.monotonic()
        watcher.join()
    assert process.returncode == 0, stderr
    assert finished, "the record was never finished"
    assert ended - finished[0] < 15
    assert "mean IoU" in stdout
    assert "Traceback" not in stderr
    assert "clearml.log" not in stderr
    assert 1 <= stderr.count("Warning: ") <= 2, stderr  # lost on the way, and at the end
    assert tensorboard_scalars(tmp_path / "runs" / "it")["test/iou"]


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_its_task(tmp_path: Path) -> None:
    stop = (
        "import signal, squeeze_cli.training.callbacks as c\n"
        "from squeeze_cli.cli import main\n"
        "class Stop(c.RecordKeeper):\n"
        "    def on_train_epoch_start(self, trainer, module):\n"
        "        if trainer.current_epoch == 1: signal.raise_signal(signal.SIGINT)\n"
        "import squeeze_cli.training.fit as f\n"
        "f.RecordKeeper = Stop\n"
        "main()\n"
    )
    options = {"cwd": tmp_path, "env": environment(tmp_path), "capture_output": True,
               "text": True, "timeout": 300, "check": False}  # fmt: skip
    with ClearMLServer() as server:
        write_credentials(tmp_path, server)
        arguments = [*RUN, "--epochs", "2", "--use-clearml"]
        stopped = subprocess.run([sys.executable, "-c", stop, *arguments], **options)
        assert stopped.returncode == 130, stopped.stderr
        assert "Traceback" not in stopped.stderr
        assert server.task["status"] == "stopped"
        run = tmp_path / "runs" / "it"
        resumed = subprocess.run([str(EXECUTABLE), "train", "--resume"], **options)
        assert resumed.returncode == 0, resumed.stderr
        assert server.task["status"] == "completed"  # still the only task
        stored = {Path(name).name: body for name, body in server.files.items()}
        for file in (run / "prior.safetensors", run / "codes" / "test.sqz"):
            assert stored[file.name] == file.read_bytes()
        images = {
            (e["metric"], e["variant"])
            for e in server.events if e["type"] == "training_debug_image"
        }  # fmt: skip
        pictures = sorted((run / "figures").glob("*.png"))
        assert {("figures", picture.stem) for picture in pictures} <= images
        assert pictures
        written = tensorboard_scalars(run)["val/loss"]
        assert [step for step, _ in server.scalars()["val/loss"]] == [s for s, _ in written]
