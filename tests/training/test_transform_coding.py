"""Runs of `--quantizer dct`: maps of any size, and features without maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from squeeze_cli.api import open_run
from tests.conftest import Squeeze

TRAIN = (
    "train", "--quantizer", "dct", "--bottleneck-dim", "8", "--epochs", "1", "--no-progress",
    "--quiet", "--name", "it",
)  # fmt: skip
PETS = (
    "--model",
    "efficientnet-lite0",
    "--dataset",
    "synthetic",
    "--subset-size",
    "12",
    "--num-workers",
    "0",
)


@pytest.mark.parametrize("size", ["100", "97x130"])
def test_the_stride_need_not_divide_the_images(squeeze: Squeeze, tmp_path: Path, size: str) -> None:
    squeeze(*TRAIN, *PETS, "--image-size", size, "--step-size", "0.3")
    record = json.loads((tmp_path / "runs" / "it" / "run.json").read_text())
    told = json.loads(squeeze("evaluate", "runs/it", "--json").stdout)["metrics"]
    for name in ("mse", "iou"):
        assert told[name] == pytest.approx(record["metrics"]["test"][name], rel=1e-4)
    run = open_run(tmp_path / "runs" / "it", device="cpu")
    codes = run.open(tmp_path / "runs" / "it" / "codes" / "test.sqz").read()
    assert codes.shape[1:] == (*record["quantizer"]["grid"], 8)
    assert run.network.quantizer.get_buffer("step").item() == pytest.approx(
        0.3 * np.prod(record["quantizer"]["grid"]) ** 0.5
    )


@pytest.mark.parametrize("shape", [(40, 12), (40, 3, 5, 12)])
def test_given_features(squeeze: Squeeze, tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Smaller steps have more bits and a smaller error; training has a weight of the rate."""
    generator = np.random.default_rng(0)
    mixed = generator.normal(size=(*shape[:-1], 3)) @ generator.normal(size=(3, 12))
    np.save(tmp_path / "features.npy", mixed.astype(np.float32))
    found = []
    for step in ("1", "0.2"):
        squeeze(*TRAIN, "--features", "features.npy", "--step-size", step, "--overwrite")
        record = json.loads((tmp_path / "runs" / "it" / "run.json").read_text())
        assert record["history"][0]["train"]["rate_loss"] > 0
        assert "prior_loss" not in record["history"][0]["train"]
        bits = record["measured"]["test"]["payload_bits_per_vector"]
        found.append((bits, record["metrics"]["test"]["mse"]))
    assert found[1][0] > found[0][0]
    assert found[1][1] < found[0][1]


def test_too_many_coefficients_are_refused(squeeze: Squeeze) -> None:
    told = squeeze(*TRAIN, *PETS, "--bottleneck-dim", "1025", code=2).stderr
    assert "--bottleneck-dim 1025 is more than the 1024 coefficients per vector" in told
