"""ViT and DeepLab with random weights as baselines, and every quantizer with one of them, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import OWN_QUANTIZERS, Squeeze

BACKBONES = ("vit", "deeplab")


@pytest.mark.parametrize(
    ("backbone", "quantizer"),
    [
        *((name, "baseline") for name in BACKBONES),
        *((BACKBONES[number % 2], name) for number, name in enumerate(OWN_QUANTIZERS)),
    ],
)
def test_trains_and_is_comparable(
    squeeze: Squeeze, tmp_path: Path, backbone: str, quantizer: str
) -> None:
    command = ("baseline",) if quantizer == "baseline" else ("train", "--quantizer", quantizer)
    squeeze(
        *command, "--model", backbone, "--weights", "none", "--dataset", "synthetic",
        "--image-size", "64", "--subset-size", "8", "--epochs", "1", "--num-workers", "0",
        "--name", "it", "--quiet",
    )  # fmt: skip
    row = json.loads(squeeze("compare", "runs", "--json").stdout)["runs"][0]
    assert row["status"] == "finished"
    assert row["model"] == backbone
    assert row["random_features"] is True
    assert row["quantizer"] == quantizer
    assert 0 <= row["test_iou"] <= 1
