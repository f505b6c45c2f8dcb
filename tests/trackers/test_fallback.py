"""Without a usable ClearML a run goes on with TensorBoard, and says why in one line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from squeeze_cli.console import Reporter
from squeeze_cli.runs import RunFolder
from squeeze_cli.trackers import clearml_task
from squeeze_cli.trackers.credentials import probe
from squeeze_cli.trackers.loggers import GuardedTensorBoard
from tests.conftest import Squeeze
from tests.trackers.clearml_server import KEY, SECRET
from tests.trackers.dead_ends import DEAD_ENDS, refused

RUN = (
    "train", "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "12", "--num-workers", "0", "--epochs", "1", "--max-batches", "1",
    "--no-progress", "--name", "it", "--use-clearml",
)  # fmt: skip
DeadEnd = Callable[[], AbstractContextManager[str]]


def write_credentials(folder: Path, url: str) -> None:
    path = folder / "clearml_credentials.yaml"
    path.write_text(
        f"api_host: {url}\nweb_host: {url}\nfiles_host: {url}\n"
        f"api_key: {KEY}\napi_secret: {SECRET}\n"
    )
    path.chmod(0o600)


def assert_ran_without(folder: Path) -> None:
    assert json.loads((folder / "runs/it/run.json").read_text())["status"] == "finished"
    assert list((folder / "runs/it/tensorboard").glob("events*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dead_end", "reason"), DEAD_ENDS.items(), ids=[end.__name__ for end in DEAD_ENDS]
)
def test_every_dead_end_ends_well(
    squeeze: Squeeze,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dead_end: DeadEnd,
    reason: str,
) -> None:
    seconds: list[float] = []

    def timed(*arguments: Any) -> str | None:
        start = time.monotonic()
        why = probe(*arguments)
        seconds.append(time.monotonic() - start)
        return why

    monkeypatch.setattr(clearml_task, "probe", timed)
    with dead_end() as url:
        write_credentials(tmp_path, url)
        done = squeeze(*RUN)
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("Warning: ClearML")]
    assert reason in warning
    assert warning.endswith("The run goes on with TensorBoard.")
    assert SECRET not in done.stdout + done.stderr
    assert [s < 5.5 for s in seconds] == [True]
    assert_ran_without(tmp_path)


def test_no_credentials(squeeze: Squeeze, tmp_path: Path) -> None:
    done = squeeze(*RUN)
    assert "Warning: ClearML credentials file not found" in done.stderr
    assert "run: squeeze clearml-init" in done.stderr
    assert_ran_without(tmp_path)
    evaluated = squeeze("evaluate", "runs/it")  # reports to no tracker, whatever the run did
    assert "ClearML" not in evaluated.stdout + evaluated.stderr


def test_require_clearml_turns_the_fallback_into_an_error(squeeze: Squeeze, tmp_path: Path) -> None:
    assert "--require-clearml" in squeeze(*RUN, "--require-clearml", code=1).stderr
    with refused() as url:
        write_credentials(tmp_path, url)
        assert "refuses the connection" in squeeze(*RUN, "--require-clearml", code=1).stderr
    assert not (tmp_path / "runs" / "it").exists()


@pytest.mark.parametrize("flags", [(), ("--clearml-offline",), ("--remote-queue", "gpus")], ids=str)
def test_without_the_extra_one_line_names_it(
    squeeze: Squeeze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    monkeypatch.setattr(clearml_task, "find_spec", lambda name: None)
    done = squeeze(*RUN, *flags, code=1)
    (line,) = [line for line in done.stderr.splitlines() if "Error" in line]
    assert "pip install 'squeeze-cli[clearml]'" in line
    assert not (tmp_path / "runs" / "it").exists()


def test_flags_for_clearml_need_clearml(squeeze: Squeeze) -> None:
    without = [a for a in RUN if a != "--use-clearml"]
    assert "add --use-clearml" in squeeze(*without, "--clearml-tag", "a", code=2).stderr
    both = squeeze(*RUN, "--clearml-offline", "--require-clearml", code=2)
    assert "leave one of them out" in both.stderr
    offline = squeeze(*RUN, "--clearml-offline", "--remote-queue", "q", code=2)
    assert "leave --clearml-offline out" in offline.stderr
    shown = squeeze(*without, "--project-name", "P", "--remote-queue", "q", "--dry-run", "--json")
    assert json.loads(shown.stdout)["logger"]["use_clearml"] is True


def test_dry_run_shows_the_resolved_logger_and_no_secret(squeeze: Squeeze, tmp_path: Path) -> None:
    write_credentials(tmp_path, "http://127.0.0.1:1")
    shown = squeeze(*RUN, "--dry-run", "--json", "--clearml-tag", "a", "--clearml-tag", "b",
                    "--credentials", "clearml_credentials.yaml")  # fmt: skip
    logger = json.loads(shown.stdout)["logger"]
    assert logger["use_clearml"] is True
    assert logger["clearml_tags"] == ["a", "b"]
    assert logger["credentials_file"] == "clearml_credentials.yaml"
    assert SECRET not in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("said", "flags", "offline"),
    [
        ("1", (), True),
        ("true", (), True),
        ("1", ("--no-clearml-offline",), False),
        ("0", (), False),
        ("", (), False),
        ("0", ("--clearml-offline",), True),
        ("1", ("--remote-queue", "q"), False),
    ],
)
def test_the_variable_of_clearml_for_offline_counts(
    squeeze: Squeeze,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    flags: tuple[str, ...],
    offline: bool,
) -> None:
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", said)
    shown = squeeze(*RUN, *flags, "--dry-run", "--json")
    assert json.loads(shown.stdout)["logger"]["clearml_offline"] is offline


def test_without_tensorboard_there_are_no_events(squeeze: Squeeze, tmp_path: Path) -> None:
    squeeze(*(a for a in RUN if a != "--use-clearml"), "--no-tensorboard")
    assert not (tmp_path / "runs" / "it" / "tensorboard").exists()


def test_a_tracker_that_fails_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reports: list[dict[str, float]] = []

    def log_metrics(self: object, metrics: dict[str, float], step: int | None = None) -> None:
        if reports:
            raise OSError("no space left")
        reports.append(metrics)

    def finalize(self: object, status: str) -> None:
        raise AssertionError("called after it had failed")

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", log_metrics)
    monkeypatch.setattr(TensorBoardLogger, "finalize", finalize)
    guarded = GuardedTensorBoard(RunFolder(tmp_path), Reporter())
    for step in range(4):
        guarded.log_metrics({"loss": 1.0 + step}, step)
    guarded.finalize("success")
    assert reports == [{"loss": 1.0}]
    assert capsys.readouterr().err.count("TensorBoard failed (OSError: no space left)") == 1
