"""`--code-stride`: runs whose codes stand for squares of vectors, from training to decoded masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from squeeze_cli.api import open_run
from squeeze_cli.config.parts import QUANTIZERS
from tests.conftest import Squeeze

TINY = (
    "--model", "efficientnet-lite0", "--dataset", "synthetic", "--subset-size", "12",
    "--num-workers", "0", "--no-progress", "--epochs", "1", "--name", "it",
)  # fmt: skip
CODING = [name for name, entry in QUANTIZERS.items() if "code_stride" in entry.options]
# Size of images, their vectors, stride, codes and other options; each quantizer takes one in turn.
KINDS = [
    ("112", (7, 7), 2, (4, 4), ()),
    ("64x96", (4, 6), 4, (1, 2), ("--fit", "pad", "--encoder", "conv")),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantizer", "size", "vectors", "stride", "codes", "more"),
    [(name, *KINDS[number % 2]) for number, name in enumerate(CODING)],
)
def test_a_run_is_measured_and_decoded(
    squeeze: Squeeze, tmp_path: Path, quantizer: str, size: str, vectors: tuple[int, int],
    stride: int, codes: tuple[int, int], more: tuple[str, ...],
) -> None:  # fmt: skip
    options = ("--quantizer", quantizer, "--code-stride", str(stride), "--image-size", size, *more)
    small = {
        "vq": ("--codebook-size", "16"),
        "rvq": ("--codebook-size", "8", "--num-quantizers", "2"),
        "pq": ("--codebook-size", "8", "--num-groups", "2"),
    }
    squeeze("train", *TINY, *options, *small.get(quantizer, ()))
    folder = tmp_path / "runs" / "it"
    record = json.loads((folder / "run.json").read_text())
    told, test = record["quantizer"], record["measured"]["test"]
    file = open_run(folder).open(folder / test["file"])
    share = np.prod(codes) / np.prod(vectors)
    assert (tuple(told["grid"]), file.header.grid) == (vectors, codes)
    assert test["vectors"] == test["images"] * np.prod(vectors)
    assert test["bits_per_vector"] == pytest.approx(8 * test["file_bytes"] / test["vectors"])
    nominal = sum(np.log2(told["code_sizes"])) * share
    assert told["nominal_bits_per_vector"] == pytest.approx(nominal)
    assert record["model"]["quantized_dim"] == 320
    metrics = json.loads(squeeze("evaluate", "runs/it", "--json").stdout)["metrics"]
    assert metrics["iou"] == pytest.approx(record["metrics"]["test"]["iou"], abs=1e-6)
    assert metrics["mse"] == pytest.approx(record["metrics"]["test"]["mse"], rel=1e-4)

    told = json.loads(squeeze("extract-embeddings", "runs/it", "--json", "--out", "c").stdout)
    assert told["nominal_bits_per_vector"] == pytest.approx(nominal)
    assert told["bits_per_vector"] == pytest.approx(8 * told["file_bytes"] / test["vectors"])
    squeeze("decode", "c", "--run", "runs/it", "--to", "masks", "--out", "masks")
    assert len(list((tmp_path / "masks").glob("*.png"))) == test["images"]
    if quantizer != CODING[0]:
        return
    squeeze("extract-embeddings", "runs/it", "--format", "quantized", "--out", "q")
    squeeze("decode", "c", "--run", "runs/it", "--to", "features", "--out", "f")
    wanted, found = (
        load_file(tmp_path / out / "quantized-00000.safetensors")["embeddings"] for out in "qf"
    )
    assert wanted.shape == (test["images"], 320, *vectors)
    assert np.array_equal(wanted, found)
    squeeze("show", "runs/it", "--count", "2")
    (row,) = json.loads(squeeze("compare", "runs", "--json").stdout)["runs"]
    assert row["measured_bits_per_vector"] == test["bits_per_vector"]


def test_the_rate_in_the_loss_is_that_of_a_vector(squeeze: Squeeze, tmp_path: Path) -> None:
    """Codes of 16 values cost 4 bits at most, and stand for four vectors of given features."""
    maps = np.random.default_rng(0).normal(size=(20, 4, 6, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", maps)
    squeeze(
        "train", "--features", "x.npy", "--code-stride", "2", "--codebook-size", "16", "--name", "it",
        "--bottleneck-dim", "8", "--rate-weight", "0.1", "--epochs", "1", "--no-progress",
    )  # fmt: skip
    record = json.loads((tmp_path / "runs" / "it" / "run.json").read_text())
    assert 0.7 < record["history"][0]["train"]["prior_loss"] < 1.2
    assert record["quantizer"]["grid"] == [4, 6]
    squeeze("extract-embeddings", "runs/it", "--features", "x.npy", "--out", "codes")
    squeeze("decode", "codes", "--run", "runs/it", "--to", "features", "--out", "features")
    decoded = load_file(tmp_path / "features" / "quantized-00000.safetensors")["embeddings"]
    assert decoded.shape == (20, 8, 4, 6)
