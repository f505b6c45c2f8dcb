"""Runs and codes files that squeeze 3be7f95 wrote: they decode to what they decoded to then."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from squeeze_cli.api import open_run
from tests.conftest import Squeeze
from tests.pets import noise_image

RUNS = Path(__file__).parent / "older_runs"


@pytest.mark.parametrize("name", ["vq", "rvq", "fsq", "lfq"])
def test_coded_and_packed_files_hold_the_same_codes(name: str) -> None:
    run = open_run(RUNS / name, device="cpu")
    coded, packed = (
        np.concatenate(
            [
                codes
                for _, codes in run.open(RUNS / name / folder / "codes-00000.safetensors").batches()
            ]
        )
        for folder in ("shards", "packed")
    )
    assert coded.shape[0] == 2
    assert len(np.unique(coded)) > 1
    np.testing.assert_array_equal(coded, packed)


@pytest.mark.parametrize("name", ["vq", "rvq", "fsq", "lfq"])
def test_they_decode_to_the_features_and_masks_of_then(
    name: str, squeeze: Squeeze, tmp_path: Path
) -> None:
    folder = RUNS / name
    for content in ("features", "masks"):
        squeeze("decode", str(folder / "shards"), "--run", str(folder), "--to", content,
                "--out", str(tmp_path / content), "--device", "cpu", "--quiet")  # fmt: skip
    shard = "quantized-00000.safetensors"
    decoded = load_file(tmp_path / "features" / shard)["embeddings"]
    # Matrix products round differently on another processor; the codes above are exact.
    expected = load_file(folder / "expected" / shard)["embeddings"]
    np.testing.assert_allclose(decoded, expected, rtol=1e-4, atol=1e-5)
    masks = sorted((folder / "masks").glob("*.png"))
    assert len(masks) == 2
    for mask in masks:
        now, then = (np.asarray(Image.open(p)) for p in (tmp_path / "masks" / mask.name, mask))
        assert (now == then).mean() > 0.999


def test_an_extraction_of_then_is_replaced_on_request_only(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    """Its shards were cut otherwise."""
    shutil.copytree(RUNS / "vq", tmp_path / "vq")
    before = {path.name: path.read_bytes() for path in (tmp_path / "vq" / "shards").iterdir()}
    noise_image(80, 60).save(tmp_path / "a.png")
    command = (
        "extract-embeddings", "vq", "--images", ".", "--out", "vq/shards", "--coding", "packed",
        "--device", "cpu", "--no-progress",
    )  # fmt: skip
    assert "of an earlier version" in squeeze(*command, code=2).stderr
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "vq/shards").iterdir()}
    squeeze(*command, "--overwrite")
    files = sorted(path.name for path in (tmp_path / "vq" / "shards").iterdir())
    assert files == ["codes-00000.json", "codes-00000.sqz", "manifest.json"]
