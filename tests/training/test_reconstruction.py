"""Training by reconstruction alone: no head, no masks, and what each command then says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from squeeze_cli.api import open_run
from squeeze_cli.data.transforms import counted_vectors
from squeeze_cli.losses import ReconstructionLoss
from tests.conftest import OWN_QUANTIZERS, Squeeze

TINY = (
    "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "12", "--num-workers", "0", "--no-progress",
)  # fmt: skip
RECONSTRUCTION = ("train", "--loss", "reconstruction", *TINY)


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_the_loss_is_of_the_vectors_that_count() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 2.0]]).T.reshape(1, 2, 1, 2)
    decoded = torch.tensor([[0.0, 1.0], [9.0, 9.0]]).T.reshape(1, 2, 1, 2).requires_grad_()
    counted = torch.tensor([[[True, False]]])
    assert ReconstructionLoss()(decoded, features, counted).item() == pytest.approx(1.0)
    loss = ReconstructionLoss(0.5)(decoded, features, counted)
    assert loss.item() == pytest.approx(1.5)  # 1 - cosine is 1 for orthogonal vectors
    loss.backward()
    assert decoded.grad is not None
    assert decoded.grad[..., 1].abs().max() == 0
    assert ReconstructionLoss()(decoded, features, torch.zeros_like(counted)) == 0


def test_vectors_whose_cells_are_padding_do_not_count() -> None:
    labels = torch.zeros(2, 5, 6, dtype=torch.uint8)
    labels[1, :, 3:] = 255
    labels[1, 4, 5] = 1  # a single pixel is enough
    counted = counted_vectors(labels, (2, 3))
    assert counted.tolist() == [[[True] * 3] * 2, [[True, True, False], [True, True, True]]]


@pytest.mark.parametrize("quantizer", [name for name in OWN_QUANTIZERS if name != "none"])
def test_a_run_without_a_head_measures_decodes_and_is_compared(
    squeeze: Squeeze, tmp_path: Path, quantizer: str
) -> None:
    done = squeeze(*RECONSTRUCTION, "--quantizer", quantizer, "--epochs", "2", "--name", "it")
    assert len(re.findall(r"MSE \d\.\d{3}, cosine .*\(normalized features\)", done.stdout)) == 2
    assert "IoU" not in done.stdout + done.stderr
    assert "None" not in done.stdout
    folder = tmp_path / "runs" / "it"
    run = record(folder)
    assert run["status"] == "finished"
    assert (run["model"]["loss"], run["model"]["num_classes"]) == ("reconstruction", None)
    errors = [epoch["val"]["mse"] for epoch in run["history"]]
    assert run["epochs"]["best"] == errors.index(min(errors))
    for metrics in run["metrics"].values():
        assert set(metrics) >= {"mse", "cosine", "sqnr_db", "reconstruction_loss"}
        has_codebooks = quantizer != "dct"  # coefficients have none
        assert ("codebook_usage" in metrics) == has_codebooks
        assert not set(metrics) & {"iou", "accuracy", "per_class_iou", "segmentation_loss"}
    assert 0 < run["metrics"]["train"]["mse"] < 1  # 1 is the variance of normalized features
    assert run["metrics"]["train"]["sqnr_db"] > 0
    assert not any(name.startswith("head.") for name in open_run(folder).network.state_dict())
    figures = {"training"} if quantizer == "dct" else {"codebook", "training"}
    assert {path.stem for path in (folder / "figures").iterdir()} == figures
    test = run["metrics"]["test"]
    again = json.loads(squeeze("evaluate", "runs/it", "--json", "--no-progress").stdout)
    assert again["metrics"]["mse"] == pytest.approx(test["mse"], rel=1e-5)
    summary = json.loads(
        squeeze("extract-embeddings", "runs/it", "--json", "--no-progress", "--out", "codes").stdout
    )
    assert summary["mse"] == pytest.approx(test["mse"], rel=1e-5)
    assert summary["cosine"] == pytest.approx(test["cosine"], rel=1e-5)
    squeeze("decode", "codes", "--run", "runs/it", "--to", "features", "--out", "decoded")
    (row,) = json.loads(squeeze("compare", "runs", "--json").stdout)["runs"]
    assert (row["test_mse"], row["test_sqnr_db"]) == (test["mse"], test["sqnr_db"])
    assert row["pareto_front"] is True


def test_what_needs_masks_says_why_it_cannot(squeeze: Squeeze) -> None:
    squeeze(*RECONSTRUCTION, "--epochs", "1", "--max-batches", "1", "--name", "it")
    file = "runs/it/codes/test.sqz"
    for command in (["show", "runs/it"], ["decode", file, "--to", "masks", "--out", "masks"]):
        (line,) = squeeze(*command, code=1).stderr.strip().splitlines()
        assert "without a segmentation head" in line
        assert "not to masks" in line


def test_training_brings_the_error_below_that_of_the_start(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    """Two codes are far from what the features need: the decoder has a lot to learn."""
    squeeze(*RECONSTRUCTION, "--codebook-size", "4", "--epochs", "8", "--name", "it")
    errors = [epoch["train"]["mse"] for epoch in record(tmp_path / "runs" / "it")["history"]]
    assert errors[-1] < errors[0]


def test_resumed_is_the_same_as_unbroken(squeeze: Squeeze, tmp_path: Path) -> None:
    common = (*RECONSTRUCTION, "--quantizer", "fsq", "--epochs", "2", "--name")
    squeeze(*common, "whole")
    squeeze(*common, "broken")
    broken = tmp_path / "runs" / "broken"
    content = record(broken)
    content["status"] = "interrupted"
    (broken / "run.json").write_text(json.dumps(content))
    squeeze("train", "--resume", "--no-progress")
    whole, resumed = (record(tmp_path / "runs" / name) for name in ("whole", "broken"))
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["digest"] == whole["digest"]


def test_images_without_masks_are_trained_on(
    squeeze: Squeeze, tmp_path: Path, tiny_pets: Path
) -> None:
    """The loss is chosen by itself; a folder of masks is not read, whatever is in it."""
    source = tiny_pets / "oxford-iiit-pet" / "images"
    folder = tmp_path / "mine"
    shutil.copytree(source, folder)
    common = (
        "--model", "efficientnet-lite0", "--image-size", "64", "--fit", "pad", "--epochs", "1",
        "--num-workers", "0", "--no-progress", "--codebook-size", "8",
    )  # fmt: skip
    squeeze("train", "--images", "mine", *common, "--name", "it")
    run = record(tmp_path / "runs" / "it")
    assert (run["data"]["dataset"], run["model"]["loss"]) == ("folder", "reconstruction")
    assert run["data"]["classes"] == []
    images = len(list(folder.iterdir()))
    counts = [run["data"][f"{split}_images"] for split in ("train", "val", "test")]
    assert sum(counts) == images
    assert counts[2] == round(images / 5)
    again = json.loads(squeeze("evaluate", "runs/it", "--json", "--no-progress").stdout)
    assert again["metrics"]["mse"] == pytest.approx(run["metrics"]["test"]["mse"], rel=1e-5)
    assert "--masks DIR" in squeeze("train", "--images", "mine", "--loss", "ce", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--quantizer", "none"), "unquantized features have none"),
        (("baseline",), "unquantized features have none"),
        (("train", "--class-weights", "1,1,2"), "--class-weights has no effect"),
        (("train", "--num-classes", "4"), "--num-classes has no effect"),
        (("train", "--add-adapter"), "--add-adapter has no effect"),
        (("train", "--unfreeze-last-layer"), "--unfreeze-last-layer has no effect"),
        (("train", "--feature-dim", "32"), "--feature-dim has no effect"),
    ],
)
def test_what_means_nothing_with_it_is_refused(
    squeeze: Squeeze, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    command, *options = arguments
    (line,) = (
        squeeze(command, "--loss", "reconstruction", *options, code=2).stderr.strip().splitlines()
    )
    assert words in line
    assert not (tmp_path / "runs").exists()


def test_the_cosine_weight_is_for_reconstruction_alone(squeeze: Squeeze) -> None:
    (line,) = squeeze("train", "--cosine-weight", "1", code=2).stderr.strip().splitlines()
    assert "--cosine-weight has no effect with --loss ce" in line
    assert "--loss reconstruction" in line
