"""Figures after training: in the run's folder and in TensorBoard, and never a reason to fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from squeeze_cli.training import figures
from tests.conftest import Squeeze

TINY = (
    "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "12", "--num-workers", "0", "--no-progress", "--epochs", "1", "--name", "it",
)  # fmt: skip


def drawn(folder: Path) -> set[str]:
    return {path.name for path in (folder / "runs" / "it").glob("figures/*")}


def test_in_the_runs_folder_and_in_tensorboard(squeeze: Squeeze, tmp_path: Path) -> None:
    squeeze("train", "--quantizer", "rvq", "--codebook-size", "8", *TINY)
    assert drawn(tmp_path) == {"predictions.png", "codebook.png", "training.png"}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "runs" / "it" / "tensorboard"))
    events.Reload()
    names = {"figures/predictions", "figures/codebook", "figures/training"}
    assert names <= set(events.Tags()["images"])
    (shown,) = events.Images("figures/codebook")
    with Image.open(tmp_path / "runs/it/figures/codebook.png") as picture:
        assert (shown.width, shown.height) == picture.size
    assert shown.step == 1
    assert "val/iou" in events.Tags()["scalars"]


@pytest.mark.parametrize("cache", ["--cache", "--no-cache"])
def test_a_baseline_has_no_codebook(squeeze: Squeeze, tmp_path: Path, cache: str) -> None:
    squeeze("baseline", *TINY, cache)
    assert drawn(tmp_path) == {"predictions.png", "training.png"}


def test_a_failure_to_draw_is_a_warning(
    squeeze: Squeeze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no\nfont")

    monkeypatch.setattr(figures, "curves_figure", fail)
    done = squeeze("train", "--quantizer", "fsq", *TINY)
    assert "Warning: The figures could not be made (RuntimeError: no font)." in done.stderr
    record = json.loads((tmp_path / "runs" / "it" / "run.json").read_text())
    assert record["status"] == "finished"
