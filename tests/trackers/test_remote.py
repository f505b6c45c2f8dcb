"""`--remote-queue` sends the command itself, in a form that an agent can build and run."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import squeeze_cli
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError
from squeeze_cli.trackers.clearml import find_source, remote_command
from tests.trackers.clearml_server import SECRET, ClearMLServer
from tests.trackers.test_clearml_run import RUN, environment, write_credentials

# The checkout that runs the tests has a remote of its own, or none.
FROM_ELSEWHERE = (
    "from squeeze_cli.trackers import clearml\n"
    "clearml.find_source = lambda reporter: clearml.Source("
    "'https://h/r.git', 'main', 'c0', 'a diff')\n"
    "from squeeze_cli.cli import main\nmain()\n"
)


def send(folder: Path, server: ClearMLServer, queue: str) -> subprocess.CompletedProcess[str]:
    write_credentials(folder, server)
    return subprocess.run(
        [sys.executable, "-c", FROM_ELSEWHERE, *RUN, "--lr", "1e-2", "--project_name", "P",
         "--use-clearml", "--credentials=clearml_credentials.yaml", "--remote-queue", queue,
         "--json"],
        cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_is_queued_and_nothing_runs_here(tmp_path: Path, server: ClearMLServer) -> None:
    done = send(tmp_path, server, "gpus")
    assert done.returncode == 0, done.stderr
    task = server.task
    assert json.loads(done.stdout)["task_id"] == task["id"]
    assert [identity for identity, _ in server.queued] == [task["id"]]
    assert task["status"] == "queued"
    script = task["script"]
    assert script["entry_point"] == "-m squeeze_cli " + remote_command(
        [*RUN, "--lr", "1e-2", "--project_name", "P", "--use-clearml", "--json"]
    )
    assert script["repository"] == "https://h/r.git"
    assert script["version_num"] == "c0"
    assert script["diff"] == "a diff"
    assert script["working_dir"] == "."
    assert "squeeze-cli[clearml] @ git+https://h/r.git@c0" in json.dumps(script["requirements"])
    assert task["hyperparams"]["quantizer"]["type"]["value"] == "vq"
    assert not (tmp_path / "runs").exists()
    assert SECRET not in done.stdout + done.stderr + json.dumps(server.tasks)
    play_agent(tmp_path, server)


def play_agent(folder: Path, server: ClearMLServer) -> None:
    """Run the queued command as an agent would: the task's number and credentials are given."""
    task = server.task
    task["status"] = "in_progress"
    (folder / "clearml_credentials.yaml").unlink()
    agent = {**environment(folder), **server.environment(), "CLEARML_TASK_ID": task["id"]}
    done = subprocess.run(
        [sys.executable, *shlex.split(task["script"]["entry_point"])],
        cwd=folder, env=agent, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "finished"
    assert server.task is task  # no second one
    assert "val/iou" in server.scalars()
    names = {Path(name).name for name in server.files}
    assert {"run.json", "best.ckpt"} <= names  # the agent's machine may be gone afterwards


def test_a_queue_that_is_not_there(tmp_path: Path, server: ClearMLServer) -> None:
    done = send(tmp_path, server, "nowhere")
    assert done.returncode == 1
    assert "queue 'nowhere' exists" in done.stderr
    assert "Traceback" not in done.stderr
    assert server.queued == []


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["train", "--remote_queue", "q", "--lr", "1"], "train --lr 1 --use-clearml"),
        (["train", "--remote-queue=q", "--use_clearml"], "train --use_clearml"),
        (["baseline", "--credentials", "a b.yaml", "--name", "c d"],
         "baseline --name 'c d' --use-clearml"),
    ],
)  # fmt: skip
def test_what_only_this_machine_knows_stays_here(arguments: list[str], command: str) -> None:
    assert remote_command(arguments) == command


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.org")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True,
                   capture_output=True)  # fmt: skip


def test_a_checkout_is_its_remote_commit_and_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "squeeze_cli" / "__init__.py"
    module.parent.mkdir()
    module.write_text("old\n")
    git(tmp_path, "init", "-q", "-b", "side")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(squeeze_cli, "__file__", str(module))
    with pytest.raises(SqueezeError, match="no remote 'origin'"):
        find_source(Reporter())
    git(tmp_path, "remote", "add", "origin", "https://me:t0ken@example.org/squeeze.git")
    module.write_text("new\n")
    source = find_source(Reporter())
    assert source.repository == "https://example.org/squeeze.git"
    assert source.requirement == f"squeeze-cli[clearml] @ git+{source.repository}@{source.commit}"
    assert source.branch == "side"
    assert "+new" in source.diff
    assert "push it for the agent" in capsys.readouterr().err
    git(tmp_path, "remote", "set-url", "origin", "git@example.org:team/squeeze.git")
    assert "git+ssh://git@example.org/team/squeeze.git@" in find_source(Reporter()).requirement


def test_an_installed_package_is_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(squeeze_cli, "__file__", str(tmp_path / "squeeze_cli" / "__init__.py"))
    assert find_source(Reporter()).requirement == f"squeeze-cli[clearml]=={squeeze_cli.__version__}"
