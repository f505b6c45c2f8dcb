"""ViT and DeepLab with random weights, each with every quantizer and as a baseline, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import OWN_QUANTIZERS, Squeeze


@pytest.mark.parametrize("quantizer", [*OWN_QUANTIZERS, "baseline"])
@pytest.mark.parametrize("backbone", ["vit", pytest.param("deeplab", marks=pytest.mark.slow)])
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
