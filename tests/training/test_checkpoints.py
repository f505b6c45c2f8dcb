"""When checkpoints are written, and what is in them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from squeeze_cli.runs import RunFolder
from squeeze_cli.training import checkpoints
from squeeze_cli.training.checkpoints import Checkpoints, load_best
from squeeze_cli.training.modules import BaselineSegmentationModule


class Clock:
    """Time that passes only where a test says so."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def run_epochs(
    module: BaselineSegmentationModule,
    scores: list[float],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    epoch_s: float,
    writing_s: float,
) -> list[int]:
    """Let epochs end with these scores; the epochs after which `last.ckpt` was written."""
    clock, written = Clock(), []
    monkeypatch.setattr(checkpoints, "time", clock)

    def save(path: Path, weights_only: bool) -> None:
        assert not weights_only  # resuming needs it all
        clock.now += writing_s
        written.append(trainer.current_epoch)
        torch.save({"epoch": trainer.current_epoch}, path)

    trainer: Any = SimpleNamespace(current_epoch=0, max_epochs=len(scores), save_checkpoint=save)
    callback = Checkpoints(RunFolder(folder))
    for epoch, score in enumerate(scores):
        trainer.current_epoch = epoch
        clock.now += epoch_s
        with torch.no_grad():
            module.network.head.last.bias.fill_(epoch)
        module.history.append({"epoch": epoch, "val": {"iou": score}})
        callback.on_train_epoch_end(trainer, module)
    return written


def best_epoch(folder: Path) -> int:
    stored = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert stored["state_dict"]["network.head.last.bias"][0] == stored["epoch"]
    return int(stored["epoch"])


def test_long_epochs_are_written_one_by_one(
    module: BaselineSegmentationModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = run_epochs(
        module, [0.1, 0.3, 0.2, 0.3], tmp_path, monkeypatch, epoch_s=60, writing_s=1
    )
    assert written == [0, 1, 2, 3]
    assert best_epoch(tmp_path) == 1  # the first of equals
    run = RunFolder(tmp_path)
    load_best(module, run)
    assert module.network.head.last.bias[0] == 1


def test_short_epochs_are_written_when_their_time_pays_for_it(
    module: BaselineSegmentationModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [0.1 + 0.01 * epoch for epoch in range(9)] + [0.05]
    written = run_epochs(module, scores, tmp_path, monkeypatch, epoch_s=13, writing_s=1)
    assert written == [0, 4, 8, 9]  # 50 s of training for each second; the last always
    assert best_epoch(tmp_path) == 8
