"""`--quantizer faiss`: a codec of FAISS in the place of a quantizer, with the same head and measures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from squeeze_cli.api import open_run
from squeeze_cli.codec.container import CodesFile
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.quantizers import TrainingStep, create_quantizer
from tests.conftest import Squeeze
from tests.contracts.test_quantizers import STEP, C, correlated_tokens, small

faiss = pytest.importorskip("faiss")
TINY = (
    "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "12", "--num-workers", "0", "--no-progress", "--quantizer", "faiss",
    "--codec", "PCA6,SQ8", "--name", "it",
)  # fmt: skip


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_codes_are_the_bytes_of_faiss_and_decode_as_it_does() -> None:
    tokens = correlated_tokens(600)
    index = faiss.index_factory(C, "PCA5,SQ8")
    index.train(tokens.numpy())
    quantizer = create_quantizer(small("faiss", codec="PCA5,SQ8"), C, STEP)
    quantizer.initialize(tokens)
    vectors, codes, loss, _ = quantizer.train()(tokens[None])
    encoded = index.sa_encode(tokens.numpy())
    assert np.array_equal(codes[0].numpy(), encoded)
    assert np.allclose(vectors[0].numpy(), index.sa_decode(encoded), atol=1e-5)
    assert quantizer.code_sizes == (256,) * 5
    assert loss == 0
    assert quantizer.codec_bytes == len(faiss.serialize_index(index))
    other = create_quantizer(small("faiss", codec="PCA6,SQ8"), C, STEP)
    with pytest.raises(Exception, match="not --codec PCA6,SQ8"):
        other.load_state_dict(quantizer.state_dict())


def test_a_run_has_the_size_of_its_bytes_and_decodes_them(squeeze: Squeeze, tmp_path: Path) -> None:
    squeeze("train", *TINY, "--epochs", "2")
    folder = tmp_path / "runs" / "it"
    run, opened = record(folder), open_run(folder)
    assert run["quantizer"]["code_sizes"] == [256] * 6
    assert run["quantizer"]["bottleneck_dim"] is None
    assert (run["model"]["encoder"], run["settings"]["quantizer.codec"]) == ("linear", "PCA6,SQ8")
    measured = run["measured"]["test"]
    assert measured["coding"] == "packed"
    assert 0 < measured["file_bytes"] - 6 * measured["vectors"] < 1000
    assert run["measured"]["decoder"]["codebook_bytes"] == opened.network.quantizer.codec_bytes
    assert "codebook_usage" not in run["metrics"]["test"]
    assert 0 < run["metrics"]["test"]["iou"] < 1
    codes = CodesFile(folder / "codes" / "test.sqz").read()
    index = opened.network.quantizer.index
    decoded = index.sa_decode(codes.astype(np.uint8).reshape(-1, 6))
    rows = opened.features(codes).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(rows, torch.from_numpy(decoded))
    again = json.loads(squeeze("evaluate", "runs/it", "--neighbours", "--json").stdout)["metrics"]
    assert again["iou"] == pytest.approx(run["metrics"]["test"]["iou"])
    assert 0 < again["neighbours_images"] <= 1
    (row,) = json.loads(squeeze("compare", "runs", "--json").stdout)["runs"]
    assert (row["quantizer"], row["nominal_bits_per_vector"]) == ("faiss", 48)
    assert row["measured_bits_per_vector"] == pytest.approx(measured["bits_per_vector"])


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_its_codec(squeeze: Squeeze, tmp_path: Path) -> None:
    from tests.cases.stock import stop

    squeeze("train", *TINY, "--epochs", "1")
    folder = tmp_path / "runs" / "it"
    before = open_run(folder).network.quantizer.get_extra_state()
    stop(folder)
    squeeze("train", "--resume", "--name", "it", "--no-progress")
    assert record(folder)["status"] == "finished"
    assert torch.equal(open_run(folder).network.quantizer.get_extra_state(), before)


def test_without_a_head_nothing_learns(squeeze: Squeeze, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(60, 2, 3, 9)))
    squeeze("train", "--features", "f.npy", *TINY[-6:], "--epochs", "1", "--no-progress")
    run = record(tmp_path / "runs" / "it")
    assert run["model"]["trainable_parameters"] == 0
    assert 0 < run["metrics"]["test"]["mse"] < 1


@pytest.mark.parametrize(
    ("codec", "says"),
    [
        ("PCA25,SQ8", "cannot output 25 dimensions from 24"),
        ("PQ2x8", r"Number of training points \(100\)"),
        ("PCAW6,SQ8", "reverse transform not implemented"),
    ],
)
def test_what_cannot_be_trained_or_decoded_is_one_line(codec: str, says: str) -> None:
    quantizer = create_quantizer(small("faiss", codec=codec), C, STEP)
    with pytest.raises(SqueezeError, match=f"{codec} cannot be used .*{says}"):
        quantizer.initialize(correlated_tokens(100))


def test_faiss_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UsageError, match=r"pip install squeeze-cli\[faiss\]"):
        create_quantizer(small("faiss"), C, STEP)


@pytest.mark.parametrize(
    ("codec", "processes", "says"),
    [
        ("PQ7", 1, "multiple of the number of subquantizers"),
        ("SQ9", 1, "could not parse index string SQ9"),
        ("HNSW8", 1, "is not a codec: use one such as PCA64,SQ8"),
        ("PQ1x24", 1, "is not a codec"),
        ("PRQ2x2x24", 1, "is not a codec"),
        ("IVF9999999999,Flat", 1, "is not a codec"),
        ("IMI2x16,Flat", 1, "is not a codec"),
        ("ITQ8,SQ8", 1, "is not a codec"),
        ("OPQ8_99999,PQ8", 1, "is not a codec"),
        ("x" * 9999, 1, "is not a codec"),
        ("PCA2000,SQ8", 1, "2000 bytes per vector, more than 1024"),
        ("SQ8", 2, "on one device"),
    ],
)
def test_what_is_no_codec_is_a_usage_error(codec: str, processes: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        create_quantizer(small("faiss", codec=codec), C, TrainingStep(64, processes))
