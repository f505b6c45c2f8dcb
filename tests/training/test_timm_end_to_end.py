"""A timm model from training to decoded masks, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from tests.conftest import Squeeze

MODEL = "timm:test_vit"


@pytest.mark.slow
def test_layers_of_a_timm_model_are_trained_on_stored_and_decoded(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    """Two layers, images that are no squares, the linear head; nothing is computed twice."""
    squeeze("train", "--model", MODEL, "--weights", "none", "--layer", "-3,-1", "--head", "linear",
            "--image-size", "64x96", "--dataset", "synthetic", "--subset-size", "10", "--epochs", "1",
            "--codebook-size", "16", "--bottleneck-dim", "8", "--no-progress",
            "--cache-dir", "cache")  # fmt: skip
    run = tmp_path / "runs" / "vq-timm-test_vit"
    model = json.loads((run / "run.json").read_text())["model"]
    assert (model["backbone"], model["layers"], model["head"]) == (MODEL, [3, 5], "linear")
    assert model["feature_dim"] == 128
    (space,) = json.loads(squeeze("cache", "ls", "--cache-dir", "cache", "--json").stdout)
    assert (space["backbone"], space["layer"]) == (MODEL, "layer 3,5")
    again = squeeze("evaluate", str(run), "--json")
    assert "Computing features" not in again.stderr
    squeeze("extract-embeddings", str(run), "--out", "codes", "--no-progress")
    squeeze("decode", "codes", "--run", str(run), "--to", "features", "--out", "features")
    decoded = load_file(tmp_path / "features" / "quantized-00000.safetensors")["embeddings"]
    assert decoded.shape[1:] == (128, 4, 6)


def test_the_default_size_is_the_models_own_and_stands_in_the_configuration(
    squeeze: Squeeze,
) -> None:
    for name, size in ((MODEL, 160), ("timm:vit_small_patch14_dinov2", 518), ("vit", 224)):
        planned = squeeze("train", "--model", name, "--dataset", "synthetic", "--dry-run").stdout
        config = yaml.safe_load(planned)
        assert config["data"]["image_size"] == size
        assert config["model"]["layer"] == [-1]


def test_layer_means_nothing_for_other_backbones(squeeze: Squeeze) -> None:
    done = squeeze("train", "--model", "vit", "--layer", "3", "--dry-run", code=2)
    assert "--layer has no effect with --model vit" in done.stderr


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("e", ["efficientnet-lite0"]),
        ("timm:test_vit", ["timm:test_vit", "timm:test_vit2", "timm:test_vit3", "timm:test_vit4"]),
    ],
)
def test_names_are_completed(start: str, expected: list[str]) -> None:
    from squeeze_cli.config.parts import BACKBONES

    assert BACKBONES.complete(start)[:4] == expected
