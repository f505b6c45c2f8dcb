"""Runs and codes files that squeeze 3be7f95 wrote: they decode to what they decoded to then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from squeeze_cli.api import open_run
from squeeze_cli.codec.manifest import read_any_manifest
from squeeze_cli.inference.output import ShardedOutput
from tests.conftest import Squeeze

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


def test_an_extraction_that_was_begun_then_goes_on_with_files_of_today(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    """The shards that are there stay as they are, and the folder decodes as a whole."""
    run, shards = open_run(RUNS / "vq", device="cpu"), tmp_path / "shards"
    shutil.copytree(RUNS / "vq" / "shards", shards)
    first = (shards / "codes-00000.safetensors").read_bytes()
    place = shards / "manifest.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"complete": False}))
    wanted = read_any_manifest(shards).model_copy(
        update={"version": 2, "images": 0, "bytes": 0, "shards": []}
    )
    output = ShardedOutput(
        shards, wanted, lambda codes, names: run.encode(codes, names), overwrite=False
    )
    codes = run.open(shards / "codes-00000.safetensors").read()
    output.add(["x/1", "x/2"], codes[::-1], {})
    output.finish()
    manifest = read_any_manifest(shards)
    assert (manifest.version, manifest.images, manifest.complete) == (2, 4, True)
    files = [shard.file for shard in manifest.shards]
    assert files == ["codes-00000.safetensors", "codes-00001.sqz"]
    assert (shards / files[0]).read_bytes() == first
    squeeze("decode", str(shards), "--run", str(RUNS / "vq"), "--to", "features",
            "--out", str(tmp_path / "maps"), "--device", "cpu", "--quiet")  # fmt: skip
    maps = load_file(tmp_path / "maps" / "quantized-00000.safetensors")["embeddings"]
    np.testing.assert_array_equal(maps[:2], maps[:1:-1])
