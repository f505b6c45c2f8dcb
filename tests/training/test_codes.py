"""What a run leaves besides weights: codes files, the prior, and what its record says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from squeeze_cli.codec.container import CodesFile
from squeeze_cli.codec.prior_files import read_prior
from squeeze_cli.config.record import Measured, MeasuredSplit
from squeeze_cli.console import Reporter
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.runs import RunFolder
from tests.conftest import Squeeze

TINY = (
    "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "8", "--num-workers", "0", "--no-progress", "--epochs", "1", "--name", "it",
)  # fmt: skip
FEATURE_DIM, VECTORS, PIXELS = 320, 16, 64 * 64


def network_codes(folder: RunFolder, split: str) -> tuple[list[str], np.ndarray]:
    """Names of a split's images, and the codes `[n, h, w, Q]` that the run's network gives them."""
    run = TrainedRun(folder.path, {"training.device": "cpu"})
    samples = getattr(run.splits(Reporter()), split)
    data = run.data({split: samples}, Reporter(progress=False))
    network = run.module.network
    with torch.no_grad():
        codes = [network.codes(network.features(s)) for s, _, _ in data.batches(split, 3)]
    assert network.digest() == run.record.digest
    return [sample.name for sample in samples], torch.cat(codes).numpy()


def check_measured(folder: RunFolder, measured: Measured | None, feature_dim: int) -> None:
    """The record's figures against the files themselves."""
    for split in ("val", "test"):
        assert measured is not None
        figures: MeasuredSplit = getattr(measured, split)
        size = (folder.path / figures.file).stat().st_size
        file = CodesFile(folder.path / figures.file)
        vectors = len(file) * VECTORS
        assert (figures.images, figures.vectors) == (len(file), vectors)
        assert figures.coding == file.header.coding
        assert figures.file_bytes == size
        assert 0 < figures.payload_bytes < size
        assert figures.bits_per_vector == pytest.approx(8 * size / vectors)
        assert figures.bits_per_feature_point == pytest.approx(8 * size / vectors / feature_dim)
        assert figures.bits_per_pixel == pytest.approx(8 * size / len(file) / PIXELS)
        assert figures.bytes_per_image == pytest.approx(size / len(file))
        assert figures.compression_ratio == pytest.approx(4 * feature_dim * vectors / size)


@pytest.mark.parametrize(
    ("flags", "sizes"),
    [(("--quantizer", "vq", "--codebook-size", "20"), (20,)),
     (("--quantizer", "rvq", "--codebook-size", "8", "--num-quantizers", "3"), (8, 8, 8)),
     (("--quantizer", "pq", "--codebook-size", "8", "--num-groups", "2"), (8, 8))],
)  # fmt: skip
def test_a_run_leaves_codes_that_its_prior_decodes(
    squeeze: Squeeze, tmp_path: Path, flags: tuple[str, ...], sizes: tuple[int, ...]
) -> None:
    squeeze("train", *flags, *TINY)
    folder = RunFolder(tmp_path / "runs" / "it")
    record = folder.read_record()
    prior = read_prior(folder.prior_file)
    assert (prior.code_sizes, prior.grid) == (sizes, (4, 4))
    for split in ("val", "test"):
        names, codes = network_codes(folder, split)
        file = CodesFile(folder.codes_folder / f"{split}.sqz", prior)
        assert file.names == tuple(names)
        assert file.header.quantizer == flags[1]
        assert np.array_equal(file.require_run(record.digest).read(), codes)
    check_measured(folder, record.measured, FEATURE_DIM)
    assert record.measured is not None
    for split in ("val", "test"):
        figures = getattr(record.measured, split)
        # All these images are in one block.
        coded = figures.prior_cross_entropy_bits * figures.vectors
        assert 31 < 8 * figures.payload_bytes - coded < 44
    decoder = record.measured.decoder
    vectors = sizes[0] if flags[1] == "pq" else sum(sizes)  # those of pq are in parts
    assert decoder.codebook_bytes == 4 * 64 * vectors
    assert decoder.projection_bytes == 4 * (64 * FEATURE_DIM + FEATURE_DIM)
    assert 0.97 * folder.prior_file.stat().st_size < decoder.prior_bytes
    assert decoder.prior_bytes < folder.prior_file.stat().st_size
    assert (record.seconds.codes or 0) > 0


def test_codes_too_large_for_a_prior_are_packed_and_it_says_so(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    done = squeeze("train", "--quantizer", "fsq", "--levels", "18,17,15", *TINY)
    assert "Codes of 4590 values are packed: too many for a prior." in done.stderr
    folder = RunFolder(tmp_path / "runs" / "it")
    record = folder.read_record()
    assert not folder.prior_file.exists()
    names, codes = network_codes(folder, "test")
    file = CodesFile(folder.codes_folder / "test.sqz").require_run(record.digest)
    assert (file.header.coding, file.names) == ("packed", tuple(names))
    assert np.array_equal(file.read(), codes)
    check_measured(folder, record.measured, FEATURE_DIM)
    assert record.measured is not None
    assert record.measured.test.coding == "packed"
    assert record.measured.test.prior_cross_entropy_bits is None
    assert record.measured.decoder.prior_bytes == 0
    assert record.measured.decoder.codebook_bytes == 0  # implicit: nothing to send


def test_where_nothing_is_quantized_nothing_is_measured(squeeze: Squeeze, tmp_path: Path) -> None:
    squeeze("baseline", *TINY)
    folder = RunFolder(tmp_path / "runs" / "it")
    record = json.loads(folder.record_file.read_text())
    assert record["measured"] is None
    assert len(record["digest"]) == 16
    assert not folder.prior_file.exists()
    assert [path.name for path in folder.codes_folder.iterdir()] == ["first_batch.safetensors"]
