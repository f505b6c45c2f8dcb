"""Command lines of the argparse scripts that squeeze takes over from, pasted behind its commands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.conftest import Squeeze

VERIFICATION_LINES = (
    "train --epochs 1 --subset_size 100",
    "train --epochs 1 --subset_size 100 --quantizer_type fsq",
    "train --epochs 1 --subset_size 100 --quantizer_type lfq --codebook_size 512",
    "train --epochs 1 --subset_size 100 --quantizer_type rvq --num_quantizers 4",
    "baseline --epochs 1 --subset_size 100",
    "train --model deeplab --add_adapter --quantizer_type vq",
    "train --model deeplab --quantizer_type vq --epochs 10 --batch_size 4 --loss_type combined",
)
# The lines as they stand, on few images: random weights, 64 px, a step an epoch, two epochs.
SMALL = "--weights none --image-size 64 --max-batches 1 --num-workers 0 --no-progress --name it"


@pytest.mark.slow
@pytest.mark.parametrize("line", VERIFICATION_LINES)
def test_verification_lines_run(squeeze: Squeeze, tiny_pets: Path, line: str) -> None:
    arguments = shlex.split(line) + shlex.split(SMALL) + ["--data-dir", str(tiny_pets)]
    if "--epochs 10" in line or "--epochs" not in line:
        arguments += ["--epochs", "2"]
    squeeze(*arguments)
    record = json.loads((tiny_pets / "runs" / "it" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["metrics"]["test"]["iou"] > 0


def resolved(squeeze: Squeeze, *arguments: str) -> dict:
    config = json.loads(squeeze(*arguments, "--dry-run", "--json").stdout)
    assert isinstance(config, dict)
    return config


def test_older_spellings_set_the_same_fields(squeeze: Squeeze) -> None:
    older = (
        "train --quantizer_type rvq --num_quantizers 3 --codebook_size 128 --bottleneck_dim 32 "
        "--decay 0.95 --commitment_weight 0.5 --vq_loss_weight 0.2 --loss_type focal "
        "--class_weights 1 1 2 --batch_size 8 --max_batches 7 --subset_size 50 --add_adapter "
        "--unfreeze_last_layer --feature_dim 256 --num_classes 3 --data_path elsewhere "
        "--experiment_name it --output_dir out --image_size 96 --num_workers 1 --no_progress"
    )
    newer = (
        "train --quantizer rvq --num-quantizers 3 --codebook-size 128 --bottleneck-dim 32 "
        "--decay 0.95 --commitment-weight 0.5 --vq-loss-weight 0.2 --loss focal "
        "--class-weights 1,1,2 --batch-size 8 --max-batches 7 --subset-size 50 --add-adapter "
        "--unfreeze-last-layer --feature-dim 256 --num-classes 3 --data-dir elsewhere "
        "--name it --output-dir out --image-size 96 --num-workers 1 --no-progress"
    )
    config = resolved(squeeze, *shlex.split(older))
    assert config == resolved(squeeze, *shlex.split(newer))
    assert config["quantizer"]["num_quantizers"] == 3
    assert config["model"]["class_weights"] == [1.0, 1.0, 2.0]
    assert config["data"]["data_dir"] == "elsewhere"
    assert config["name"] == "it"


def test_switches_keep_their_older_opposites(squeeze: Squeeze) -> None:
    older = (
        "--no_initialize_codebook --no-unfreeze-last-layer --no-clearml --no_cache --no-tensorboard"
    )
    newer = "--random-codebook --freeze-last-layer --no-clearml --no-cache --no-tensorboard"
    config = resolved(squeeze, "train", *older.split())
    assert config == resolved(squeeze, "train", *newer.split())
    assert not config["quantizer"]["initialize_codebook"]
    assert not config["data"]["use_cache"]
    assert not config["logger"]["use_tensorboard"]
    assert resolved(squeeze, "train", "--initialize_codebook")["quantizer"]["initialize_codebook"]
    assert resolved(squeeze, "train", "--unfreeze_last_layer")["model"]["unfreeze_last_layer"]


@pytest.mark.parametrize("levels", ["--levels 8 6 5", "--levels 8,6,5", "--levels=8,6,5"])
def test_lists_with_blanks_or_commas(squeeze: Squeeze, levels: str) -> None:
    arguments = ("train", "--quantizer_type", "fsq", *levels.split(), "--epochs", "2")
    config = resolved(squeeze, *arguments)
    assert config["quantizer"]["levels"] == [8, 6, 5]
    assert config["training"]["epochs"] == 2


def test_names_of_experiments_and_folders_keep_their_underscores(squeeze: Squeeze) -> None:
    config = resolved(squeeze, "train", "--name", "my_run", "--data_dir", "my_data/pets_1")
    assert (config["name"], config["data"]["data_dir"]) == ("my_run", "my_data/pets_1")
