"""Real runs through the real executable, small: EfficientNet-Lite0 at 64 px on synthetic pets."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from safetensors import safe_open

from squeeze_cli.codec.container import CodesFile
from squeeze_cli.codec.prior_files import read_prior
from squeeze_cli.training import fit
from squeeze_cli.training.callbacks import RecordKeeper
from tests.conftest import EXECUTABLE, OWN_QUANTIZERS, Squeeze

TINY = (
    "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "12", "--num-workers", "0", "--no-progress",
)  # fmt: skip


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("quantizer", OWN_QUANTIZERS)
def test_a_run_leaves_all_that_the_readme_says(
    squeeze: Squeeze, tmp_path: Path, quantizer: str
) -> None:
    done = squeeze("train", "--quantizer", quantizer, *TINY, "--epochs", "2", "--name", "it")
    folder = tmp_path / "runs" / "it"
    for name in ("config.yaml", "run.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "tensorboard").glob("events*"))
    run = record(folder)
    assert run["status"] == "finished"
    assert run["schema_version"] == 1
    assert run["epochs"] == {"planned": 2, "done": 2, "best": run["epochs"]["best"]}
    for split in ("train", "val", "test"):
        assert 0 < run["metrics"][split]["iou"] < 1
        assert len(run["metrics"][split]["per_class_iou"]) == 3
    levels = len(run["quantizer"]["code_sizes"])
    codebooks = 0 if quantizer == "dct" else levels
    assert len(run["metrics"]["val"].get("codebook_perplexity", [])) == codebooks
    if levels:
        prior = read_prior(folder / "prior.safetensors")
        for split in ("val", "test"):
            measured = run["measured"][split]
            path = folder / measured["file"]
            codes = CodesFile(path, prior).require_run(run["digest"])
            assert codes.read().shape == (measured["images"], 4, 4, levels)
            assert measured["file_bytes"] == path.stat().st_size
            assert measured["images"] == run["data"][f"{split}_images"]
        assert f"codes/test.sqz, {path.stat().st_size:,} bytes" in done.stdout
    else:
        assert run["measured"] is None
    with safe_open(folder / "codes" / "first_batch.safetensors", "pt") as first:
        assert first.get_tensor("features").shape == first.get_tensor("quantized").shape
    assert "mean IoU" in done.stdout
    assert "squeeze compare runs" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_metric_names_in_tensorboard(squeeze: Squeeze, tmp_path: Path) -> None:
    squeeze("train", "--quantizer", "rvq", "--codebook-size", "8", *TINY, "--epochs", "1",
            "--loss", "combined", "--name", "it")  # fmt: skip
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "runs" / "it" / "tensorboard"))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert {
        "train/loss", "val/loss", "train/iou", "val/iou", "val/accuracy", "test/iou",
        "val/per_class_iou_0", "val/per_class_iou_2", "val/codebook_usage_level_3",
        "val/codebook_perplexity_level_0", "train/loss_dice", "train/loss_ce", "train/loss_focal",
        "train/vq_loss",
    } <= names  # fmt: skip


def test_stopped_and_resumed_is_the_same_as_unbroken(
    squeeze_here: Squeeze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second epoch is stopped by its record: the same weights and metrics come out."""
    common = ("train", "--quantizer", "vq", "--codebook-size", "16", *TINY, "--epochs", "3")
    squeeze_here(*common, "--name", "whole")

    class Stop(RecordKeeper):
        def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "RecordKeeper", Stop)
        squeeze_here(*common, "--name", "broken", code=130)
    assert record(tmp_path / "runs" / "broken")["status"] == "interrupted"
    assert record(tmp_path / "runs" / "broken")["epochs"]["done"] == 1
    squeeze_here("train", "--resume", "--no-progress")  # the only unfinished one
    whole, resumed = (record(tmp_path / "runs" / name) for name in ("whole", "broken"))
    assert resumed["status"] == "finished"
    assert resumed["history"] == whole["history"]
    assert resumed["metrics"] == whole["metrics"]
    states = [
        torch.load(tmp_path / "runs" / name / "checkpoints" / "best.ckpt", weights_only=True)
        for name in ("whole", "broken")
    ]
    for key, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][key]), key


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_folder_that_resumes(
    squeeze: Squeeze, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Ctrl-C, and a scheduler's way to end a job. That it resumes to the same: test_kills.py."""
    process = subprocess.Popen(
        [str(EXECUTABLE), "train", *TINY, "--epochs", "500", "--name", "long"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    last = tmp_path / "runs" / "long" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert "--resume" in errors
    run = record(tmp_path / "runs" / "long")
    assert run["status"] == "interrupted"
    assert 1 <= run["epochs"]["done"] < 500
    shown = squeeze("compare", "runs").stdout
    assert "long is interrupted" in shown


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_another(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        squeeze("train", "--quantizer", "fsq", *TINY, "--epochs", "1", "--seed", seed,
                "--name", name)  # fmt: skip
    a, b, c = (record(tmp_path / "runs" / name) for name in "abc")
    assert a["metrics"] == b["metrics"]
    assert a["metrics"] != c["metrics"]


@pytest.mark.slow
def test_without_the_store_the_metrics_are_the_same(squeeze: Squeeze, tmp_path: Path) -> None:
    """float16 in the store moves a feature by at most 2^-11: mIoU by far less than a seed does."""
    for name, flag in (("stored", "--cache"), ("plain", "--no-cache")):
        squeeze("train", "--quantizer", "vq", "--codebook-size", "16", *TINY, "--epochs", "2",
                flag, "--name", name)  # fmt: skip
    stored, plain = (record(tmp_path / "runs" / n)["metrics"]["val"] for n in ("stored", "plain"))
    assert stored["iou"] == pytest.approx(plain["iou"], abs=0.03)
    assert stored["loss"] == pytest.approx(plain["loss"], abs=0.05)


@pytest.mark.parametrize(
    "flags",
    [
        ("--add-adapter",),
        ("--unfreeze-last-layer",),
        ("--unfreeze-last-layer", "--no-cache", "--model", "vit", "--weights", "none"),
        ("--feature-dim", "48", "--bottleneck-dim", "16"),
        ("--feature-dim", "400"),
        ("--precision", "bf16"),
        ("--loss", "combined", "--class-weights", "1", "1", "2"),
        ("--quantizer", "lfq", "--spherical", "--codebook-size", "32"),
        ("--quantizer", "vq", "--no-initialize-codebook"),
        ("--num-classes", "21"),
    ],
    ids=" ".join,
)
def test_variants_train(squeeze: Squeeze, tmp_path: Path, flags: tuple[str, ...]) -> None:
    squeeze("train", *TINY, *flags, "--epochs", "1", "--max-batches", "1", "--name", "it")
    run = record(tmp_path / "runs" / "it")
    assert run["status"] == "finished"
    assert run["model"]["trainable_parameters"] > 0
    evaluated = json.loads(squeeze("evaluate", "runs/it", "--json").stdout)
    assert evaluated["images"] == 12


def test_evaluate_gives_the_records_own_metrics(squeeze: Squeeze, tmp_path: Path) -> None:
    squeeze("train", "--quantizer", "lfq", *TINY, "--epochs", "1", "--name", "it")
    run = record(tmp_path / "runs" / "it")
    for split in ("val", "test"):
        result = json.loads(squeeze("evaluate", "runs/it", "--split", split, "--json").stdout)
        assert result["metrics"]["iou"] == pytest.approx(run["metrics"][split]["iou"], abs=1e-6)
    assert "mean IoU" in squeeze("evaluate", "runs/it").stdout
    squeeze("evaluate", "runs/none", code=1)


def test_a_random_backbone_is_marked_everywhere(squeeze: Squeeze, tmp_path: Path) -> None:
    done = squeeze("baseline", *TINY, "--weights", "none", "--epochs", "1", "--name", "it")
    assert "random" in done.stderr
    assert "random" in done.stdout
    assert record(tmp_path / "runs" / "it")["model"]["random_features"] is True
    assert "(random)" in " ".join(squeeze("compare", "runs").stdout.split())
