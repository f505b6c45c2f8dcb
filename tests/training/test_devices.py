"""Training on several devices: real runs through the real executable, as gloo processes on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from squeeze_cli.quantizers.whitening import WHITENING_MOMENTUM, Whitening
from tests.conftest import Squeeze

COMMON = (
    "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--num-workers", "0", "--device", "cpu", "--no-progress", "--codebook-size", "16",
)  # fmt: skip
# The command with an eye on every rank at the end of training.
PROBED = """
import sys
import torch
from squeeze_cli.cli import main
from squeeze_cli.quantizers import base
from squeeze_cli.training import callbacks, fit

class Probe(callbacks.RecordKeeper):
    def on_train_end(self, trainer, module):
        seen = {"network": module.network.state_dict(), "history": self.history}
        torch.save(seen, f"rank{trainer.global_rank}.pt")

def fit_prior(*arguments, **others):
    print("a prior is fitted", file=sys.stderr)
    return original(*arguments, **others)

original, base.fit_prior = base.fit_prior, fit_prior
fit.RecordKeeper = Probe
if __name__ == "__main__":
    main()
"""
WHITENING = """
import sys
import torch
from squeeze_cli.quantizers.whitening import Whitening

rank = int(sys.argv[1])
meeting = f"file://{sys.path[0]}/meeting"
torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=2)
whitening = Whitening(3)
whitened = whitening(torch.load("shares.pt")[rank])
torch.save({**whitening.state_dict(), "whitened": whitened}, f"rank{rank}.pt")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


def scalars(run: Path) -> dict[str, list[float]]:
    """The values in TensorBoard's files by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: [event.value for event in events.Scalars(name)] for name in names}


@pytest.mark.slow
def test_two_processes_train_one_network(squeeze: Squeeze, tmp_path: Path) -> None:
    """The same codebooks and metrics on both, and nearly those of one process."""
    (tmp_path / "probed.py").write_text(PROBED)
    arguments = ("train", *COMMON, "--subset-size", "80", "--epochs", "10", "--cache-dir", "cache")
    done = subprocess.run(
        [sys.executable, "probed.py", *arguments, "--devices", "2", "--batch-size", "4"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    for name, tensor in first["network"].items():
        shared = "running_" not in name  # BatchNorm's statistics are each rank's own on a CPU
        assert not shared or torch.equal(tensor, second["network"][name]), name
    assert first["history"] == second["history"]
    (run,) = (tmp_path / "runs").iterdir()
    two = record(run)
    assert (two["status"], two["epochs"]["done"]) == ("finished", 10)
    for epoch in first["history"]:
        epoch.pop("digest")  # of the weights, for `last.ckpt` alone
    assert two["history"] == first["history"]
    assert done.stderr.count("a prior is fitted") == 1
    assert done.stderr.count("Computed features of 64 images") == 1  # the other half is silent
    assert done.stdout.count("mean IoU") == 2  # validation and test
    assert "Warning" not in done.stderr
    assert len(scalars(run)["val/iou"]) == 10
    squeeze(*arguments, "--batch-size", "8", "--name", "one")
    one = record(tmp_path / "runs" / "one")
    assert two["metrics"]["val"]["iou"] == pytest.approx(one["metrics"]["val"]["iou"], abs=0.02)
    assert two["data"] == one["data"]


@pytest.mark.slow
def test_running_statistics_of_whitening_are_of_all_processes(tmp_path: Path) -> None:
    """Shares of unequal size and unequal mean, in training; each process whitens its own batch."""
    vectors = torch.randn(50, 3) * torch.tensor([1.0, 5.0, 0.2]) + torch.arange(50)[:, None]
    torch.save([vectors[:11], vectors[11:]], tmp_path / "shares.pt")
    script = tmp_path / "whiten.py"
    script.write_text(WHITENING)
    ranks = [subprocess.Popen([sys.executable, script, str(r)], cwd=tmp_path) for r in range(2)]
    assert [rank.wait(timeout=60) for rank in ranks] == [0, 0]
    whole = Whitening(3)
    whole.track(vectors, WHITENING_MOMENTUM)
    states = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for state in states:
        assert torch.equal(state["running_mean"], states[0]["running_mean"])
        assert torch.equal(state["running_covariance"], states[0]["running_covariance"])
        torch.testing.assert_close(state["running_mean"], whole.running_mean)
        torch.testing.assert_close(state["running_covariance"], whole.running_covariance)
    for rank, share in enumerate((vectors[:11], vectors[11:])):
        torch.testing.assert_close(states[rank]["whitened"], Whitening(3)(share))


@pytest.mark.slow
def test_torchrun_needs_a_name_and_trains(tmp_path: Path) -> None:
    arguments = ("-m", "squeeze_cli", "train", *COMMON, "--subset-size", "8", "--epochs", "1",
                 "--quantizer", "lfq", "--devices", "2", "--batch-size", "2")  # fmt: skip
    environment = os.environ | {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1"}
    nameless = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert nameless.returncode == 2
    assert nameless.stderr == "Error: Several processes that train together need one --name.\n"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         *arguments, "--name", "it"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Run folder: runs/it") == 1
    assert record(tmp_path / "runs" / "it")["status"] == "finished"


@pytest.mark.slow
def test_a_clusters_variables_are_nothing_to_one_device(
    squeeze_executable: Squeeze, tmp_path: Path
) -> None:
    squeeze_executable(
        "train", *COMMON, "--subset-size", "8", "--epochs", "1", "--name", "it",
        env={"RANK": "1", "WORLD_SIZE": "2", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "4",
             "SLURM_JOB_NAME": "train"},
    )  # fmt: skip
    assert record(tmp_path / "runs" / "it")["status"] == "finished"
    assert {"train/loss", "val/iou", "test/iou"} <= set(scalars(tmp_path / "runs" / "it"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [(("--devices", "2", "--strategy", "none-such"), "--strategy"),
     (("--devices", "2", "--strategy", "dp"), "--strategy")],
)  # fmt: skip
def test_what_cannot_train_together_is_one_line(
    squeeze: Squeeze, tmp_path: Path, flags: tuple[str, ...], said: str
) -> None:
    done = squeeze("train", *COMMON, "--subset-size", "8", *flags, "--quiet", code=2)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
