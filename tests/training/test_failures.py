"""What a training that fails leaves behind: its record and last checkpoint, but no process."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest

from squeeze_cli.api import train
from squeeze_cli.config.schema import DataConfig, ExperimentConfig, QuantizerConfig, TrainingConfig
from squeeze_cli.errors import SqueezeError
from squeeze_cli.runs import RunFolder


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_diverged_training_leaves_no_process_and_no_thread(
    tiny_pets: Path, use_cache: bool
) -> None:
    processes, threads = set(psutil.Process().children(recursive=True)), set(threading.enumerate())
    config = ExperimentConfig(
        # Beyond any float32: the first step's loss is infinite.
        quantizer=QuantizerConfig(commitment_weight=1e38, vq_loss_weight=1e38),
        data=DataConfig(image_size=64, use_cache=use_cache, num_workers=2),
        training=TrainingConfig(epochs=1, batch_size=2),
    )
    with pytest.raises(SqueezeError, match="not finite at step 1 "):
        train(
            "vq", "efficientnet-lite0", data_dir=tiny_pets, name="run", config=config,
            output_dir=tiny_pets / "runs",
        )  # fmt: skip
    assert set(psutil.Process().children(recursive=True)) == processes
    assert set(threading.enumerate()) == threads
    run = RunFolder(tiny_pets / "runs" / "run")
    record = run.read_record()
    assert record.status == "failed"
    assert "not finite at step 1 " in str(record.error)
    assert not run.best_checkpoint.exists()
