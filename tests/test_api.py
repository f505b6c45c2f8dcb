"""The functions of `squeeze_cli.api`: what a program of one's own calls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from squeeze_cli import api
from squeeze_cli.cli import app
from squeeze_cli.errors import SqueezeError, UsageError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: `q` (vq), on 20 + 20 drawn images at 64 px."""
    folder = tmp_path_factory.mktemp("api")
    arguments = [
        "train", "--name", "q", "--quantizer", "vq", "--codebook-size", "16", "--quiet",
        "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
        "--subset-size", "20", "--num-workers", "0", "--epochs", "1",
        "--output-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache"),
    ]  # fmt: skip
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return folder / "runs"


def test_codes_of_a_folder_of_images_come_back_as_features_and_masks(
    runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "holiday").mkdir()
    for name, colour in (("a", (200, 10, 10)), ("b", (10, 200, 90)), ("c", (0, 0, 0))):
        Image.new("RGB", (70, 90), colour).save(tmp_path / "holiday" / f"{name}.png")
    summary = api.extract(
        runs / "q", images=tmp_path / "holiday", out=tmp_path / "codes", num_workers=0, device="cpu"
    )
    assert (summary.images, summary.vectors, summary.coding) == (3, 48, "prior")
    assert summary.bits_per_vector == pytest.approx(8 * summary.file_bytes / 48)
    run = api.open_run(runs / "q", device="cpu")
    file = run.open(tmp_path / "codes" / "codes-00000.safetensors")
    ((names, codes),) = file.batches()
    assert names == ("a", "b", "c")
    assert codes.shape == (3, 4, 4, 1)
    features = run.features(codes)
    assert features.shape == (3, 320, 4, 4)
    assert np.array_equal(run.codes(features), codes)
    assert run.to_output(features).shape == features.shape
    masks = run.masks(codes)
    assert (masks.shape, masks.dtype) == ((3, 64, 64), np.uint8)
    (tmp_path / "again.safetensors").write_bytes(run.encode(codes, names))
    assert np.array_equal(run.open(tmp_path / "again.safetensors").read(), codes)


def test_a_split_is_extracted_as_the_command_does(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    summary = api.extract(runs / "q", split="val", coding="packed", out="val")
    assert (summary.images, summary.coding) == (4, "packed")
    arguments = ["extract-embeddings", str(runs / "q"), "--split", "val", "--coding", "packed"]
    done = CliRunner().invoke(app, [*arguments, "--out", "val", "--json", "--quiet"])
    assert json.loads(done.stdout) == summary.model_dump(exclude_unset=True)


def test_contradictions_are_refused(runs: Path) -> None:
    with pytest.raises(UsageError, match="contradict"):
        api.extract(runs / "q", images=".", split="val")
    with pytest.raises(UsageError, match="--coding"):
        api.extract(runs / "q", content="features", coding="prior")


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SqueezeError, match=r"holds no run\.json"):
        api.open_run(tmp_path)
    with pytest.raises(SqueezeError, match="no folder"):
        api.compare([tmp_path / "nowhere"])


def test_compare_gives_a_row_per_run(runs: Path) -> None:
    (row,) = api.compare([runs])
    assert (row.name, row.status, row.quantizer) == ("q", "finished", "vq")
    assert row.test_iou is not None
    with pytest.raises(UsageError, match="--sort"):
        api.compare([runs], sort="colour")
