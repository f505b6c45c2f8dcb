"""The first levels of a run of rvq that was trained with `--quantizer-dropout`: `--levels N`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner

from squeeze_cli.api import extract, open_run
from squeeze_cli.cli import app
from squeeze_cli.codec.shards import read_manifest
from squeeze_cli.errors import DamagedCodesError
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.reports.rate_distortion import rate_distortion
from squeeze_cli.runs import read_runs
from tests.conftest import Squeeze

OLDER_RUN = Path(__file__).parent / "older_runs" / "rvq"
LEVELS, SIZE = 3, 16


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 12 + 12 drawn images at 64 px, with 16 vectors each."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = [
        "train", "--name", "q", "--quantizer", "rvq", "--num-quantizers", str(LEVELS),
        "--codebook-size", str(SIZE), "--quantizer-dropout", "--rate-weight", "0.01",
        "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
        "--subset-size", "12", "--num-workers", "0", "--epochs", "1", "--quiet",
        "--output-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache"),
    ]  # fmt: skip
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return folder / "runs" / "q"


@pytest.fixture(scope="module")
def all_codes(run: Path) -> np.ndarray:
    codes: np.ndarray = open_run(run).open(run / "codes" / "test.sqz").read()
    return codes


def shown(squeeze: Squeeze, *arguments: str) -> dict[str, Any]:
    return json.loads(squeeze(*arguments, "--json").stdout)


@pytest.mark.parametrize(("levels", "coding"), [(1, "prior"), (2, "prior"), (2, "packed")])
def test_a_file_of_the_first_levels_decodes_to_what_they_give(
    squeeze: Squeeze, tmp_path: Path, run: Path, all_codes: np.ndarray, levels: int, coding: str
) -> None:
    first = ("--levels", str(levels))
    told = shown(squeeze, "extract-embeddings", str(run), *first, "--out", "c", "--coding", coding)
    file = tmp_path / "c" / "codes-00000.sqz"
    assert told["bits_per_vector"] == pytest.approx(8 * file.stat().st_size / (12 * 16))
    assert (told["levels"], told["nominal_bits_per_vector"]) == (levels, 4 * levels)
    opened = open_run(run)
    stored = opened.open(file)
    assert (stored.header.code_sizes, stored.header.coding) == ((SIZE,) * levels, coding)
    assert np.array_equal(stored.read(), all_codes[..., :levels])
    assert read_manifest(tmp_path / "c").levels == levels

    squeeze("extract-embeddings", str(run), *first, "--format", "quantized", "--out", "quantized")
    squeeze("decode", "c", "--run", str(run), "--to", "features", "--out", "decoded")
    wanted, found = (
        load_file(tmp_path / folder / "quantized-00000.safetensors")["embeddings"]
        for folder in ("quantized", "decoded")
    )
    assert np.array_equal(wanted, found)
    squeeze("decode", "c", "--run", str(run), "--to", "masks", "--out", "masks")
    masks = opened.masks(all_codes[..., :levels])
    for name, mask in zip(stored.names, masks, strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "masks" / f"{name}.png")), mask)

    measured = shown(squeeze, "evaluate", str(run), *first)
    assert (measured["levels"], len(measured["metrics"]["codebook_usage"])) == (levels, levels)
    assert measured["metrics"]["mse"] == pytest.approx(told["mse"], rel=1e-5)


def test_all_levels_are_the_run_itself_and_fewer_are_worse(squeeze: Squeeze, run: Path) -> None:
    plain = shown(squeeze, "evaluate", str(run))
    by_levels = [
        shown(squeeze, "evaluate", str(run), "--levels", str(levels))["metrics"]
        for levels in range(1, LEVELS + 1)
    ]
    assert plain["levels"] is None
    assert by_levels[-1] == plain["metrics"]
    errors = [metrics["mse"] for metrics in by_levels]
    assert errors == sorted(errors, reverse=True)
    assert "Levels" in squeeze("evaluate", str(run), "--levels", "2").stdout


@pytest.mark.parametrize("levels", [1, 2])
def test_compare_has_a_row_for_the_first_levels(
    squeeze: Squeeze, tmp_path: Path, run: Path, levels: int
) -> None:
    rows = {row["name"]: row for row in shown(squeeze, "compare", str(run.parent))["runs"]}
    assert sorted(rows) == ["q", "q, --levels 1", "q, --levels 2"]
    row, first = rows[f"q, --levels {levels}"], ("--levels", str(levels))
    assert (row["levels"], row["nominal_bits_per_vector"]) == (levels, 4 * levels)
    metrics = shown(squeeze, "evaluate", str(run), *first)["metrics"]
    assert row["test_iou"] == pytest.approx(metrics["iou"])
    assert row["test_mse"] == pytest.approx(metrics["mse"])
    sizes = shown(squeeze, "extract-embeddings", str(run), *first, "--out", "c")
    assert row["measured_bits_per_vector"] == sizes["bits_per_vector"]
    assert row["measured_bytes_per_image"] == sizes["bytes_per_image"]
    squeeze("compare", str(run.parent), "--plot", "curve.png")
    panels = rate_distortion(read_runs([run.parent]))
    labels = [each.label.partition(",")[0] for panel in panels for each in panel.configurations]
    assert sorted(labels) == ["rvq 16", "rvq 2 × 16", "rvq 3 × 16"]


def test_an_extraction_goes_on_with_its_own_levels(
    squeeze: Squeeze, tmp_path: Path, run: Path
) -> None:
    extract(run, levels=1, out=tmp_path / "c")
    before = (tmp_path / "c" / "codes-00000.sqz").read_bytes()
    told = squeeze("extract-embeddings", str(run), "--levels", "2", "--out", "c", code=2).stderr
    assert "with different levels" in told
    squeeze("extract-embeddings", str(run), "--levels", "1", "--out", "c")
    assert (tmp_path / "c" / "codes-00000.sqz").read_bytes() == before


def test_what_has_no_such_levels_is_refused(squeeze: Squeeze, tmp_path: Path, run: Path) -> None:
    for command in ("evaluate", "extract-embeddings"):
        for levels in ("0", "4"):
            squeeze(command, str(run), "--levels", levels, code=2)
    told = squeeze("evaluate", str(run), "--levels", "4", code=2).stderr
    assert f"{run} has 3 levels, use 1 to 3." in told
    features = ("--format", "features", "--levels", "1", "--out", "f")
    assert "--levels" in squeeze("extract-embeddings", str(run), *features, code=2).stderr
    assert not (tmp_path / "f").exists()
    one = ("train", "--quantizer", "rvq", "--quantizer-dropout", "--num-quantizers", "1")
    assert "--num-quantizers 2" in squeeze(*one, "--dry-run", code=2).stderr
    with pytest.raises(DamagedCodesError):  # the file has levels that are not asked for
        open_run(run, levels=2).open(run / "codes" / "test.sqz")


def test_an_older_run_gives_its_first_levels_too() -> None:
    whole, first = TrainedRun(OLDER_RUN), TrainedRun(OLDER_RUN, levels=1)
    (file,) = sorted((OLDER_RUN / "shards").glob("codes-*"))
    codes = whole.open(file).read()
    assert first.code_sizes == whole.code_sizes[:1]
    assert np.array_equal(first.features(codes[..., :1]), whole.features(codes[..., :1]))
