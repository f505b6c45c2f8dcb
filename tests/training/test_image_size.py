"""Images that are not squares, through the real executable: codes, masks, record and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_cli.api import open_run
from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.console import Reporter
from tests.conftest import Squeeze


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_run_on_images_of_other_proportions(
    squeeze: Squeeze, tmp_path: Path, tiny_pets: Path, fit: str
) -> None:
    """The photographs have 47 x 31 pixels: 63 of 64 rows are picture where 96 columns are."""
    squeeze(
        "train", "--model", "efficientnet-lite0", "--image-size", "64x128", "--fit", fit,
        "--data-dir", str(tiny_pets), "--epochs", "1", "--num-workers", "0", "--no-progress",
        "--name", "it", "--cache-dir", str(tmp_path / "cache"),
    )  # fmt: skip
    run = tmp_path / "runs" / "it"
    record = json.loads((run / "run.json").read_text())
    assert (record["data"]["image_size_px"], record["data"]["fit"]) == ([64, 128], fit)
    assert record["quantizer"]["grid"] == [4, 8]
    squeeze("decode", str(run / "codes" / "test.safetensors"), "--to", "masks", "--out", "masks")
    with Image.open(tmp_path / "masks" / "Bengal_1.png") as mask:
        assert mask.size == (128, 64)
    opened = open_run(run)
    data = opened.data({"test": opened.splits(Reporter(quiet=True)).test}, Reporter(quiet=True))
    _, labels, _ = data.batch("test", [1])
    padding = (labels[0].numpy() == IGNORE_INDEX).all(axis=0)
    assert padding.sum() == (128 - round(64 / 31 * 47) if fit == "pad" else 0)
    assert np.all(padding[-1:] == (fit == "pad"))
    squeeze("show", str(run))
    assert (run / "figures" / "show-test-spread.png").stat().st_size > 1000
