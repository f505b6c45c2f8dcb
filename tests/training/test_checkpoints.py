"""Which checkpoints are written, and what is in them."""

from __future__ import annotations

import os
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader, Dataset

from squeeze_cli.errors import SqueezeError
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.checkpoints import WholeFiles, checkpoint_callbacks, load_best
from squeeze_cli.training.modules import SegmentationModule


class Random(Dataset[tuple[torch.Tensor, torch.Tensor, int]]):
    """States of 4 channels with masks that have nothing to do with them."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        generator = torch.Generator().manual_seed(index)
        mask = torch.randint(0, 3, (12, 12), generator=generator, dtype=torch.uint8)
        return torch.randn(4, 3, 3, generator=generator), mask, index


class Scores(Checkpoint):
    """Lets the epochs have these scores, and notes what is on disk when each begins."""

    def __init__(self, scores: list[float], run: RunFolder) -> None:
        self.scores = scores
        self.run = run
        self.seen: list[set[str]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = self.run.best_checkpoint.parent
        self.seen.append({path.name for path in folder.iterdir()} if folder.is_dir() else set())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationModule)
        with torch.no_grad():
            pl_module.network.head.last.bias.fill_(trainer.current_epoch)
        trainer.callback_metrics["val/iou"].fill_(self.scores[trainer.current_epoch])


@pytest.mark.filterwarnings("ignore")
def test_the_best_and_the_last_are_written_every_epoch(
    module: SegmentationModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    scores = Scores([0.1, 0.3, 0.2, 0.3], run)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=4, logger=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, plugins=[WholeFiles()],
        callbacks=[scores, *checkpoint_callbacks(run, module)],
    )  # fmt: skip
    loader = DataLoader(Random(), batch_size=2)
    trainer.fit(module, loader, loader)
    assert scores.seen == [set(), *[{"best.ckpt", "last.ckpt"}] * 3]
    assert load_best(module, run) == 1  # the first of equals
    assert module.network.head.last.bias[0] == 1
    best = torch.load(run.best_checkpoint, weights_only=True)
    assert "optimizer_states" not in best
    assert all(name.startswith("network.") for name in best["state_dict"])
    last = torch.load(run.last_checkpoint, weights_only=True)
    assert last["epoch"] == 3
    assert last["optimizer_states"]


def test_a_file_is_replaced_whole_and_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, files = tmp_path / "x.ckpt", WholeFiles()
    files.save_checkpoint({"value": torch.arange(1000)}, path)

    def fail(*args: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(SqueezeError, match="disk full"):
            files.save_checkpoint({"value": torch.zeros(1)}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["x.ckpt"]
    assert torch.equal(files.load_checkpoint(path)["value"], torch.arange(1000))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(SqueezeError, match="damaged"):
        files.load_checkpoint(path)


def test_a_checkpoint_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # Windows has no such limits
    path, old = tmp_path / "last.ckpt", {"weights": torch.zeros(10)}
    WholeFiles().save_checkpoint(old, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        for large in (torch.zeros(10_000_000), torch.zeros(30_000)):
            with pytest.raises(SqueezeError, match=r"Cannot write .* \(File too large\): .*ulimit"):
                WholeFiles().save_checkpoint({"weights": large}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert WholeFiles().load_checkpoint(path)["weights"].equal(old["weights"])
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]
