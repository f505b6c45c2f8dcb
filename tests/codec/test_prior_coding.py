from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from squeeze_cli.codec.coding import decode_pieces, encode_pieces, slots_of_codes
from squeeze_cli.codec.container import CodesFile, encode_codes
from squeeze_cli.codec.prior import CodePrior, read_prior
from squeeze_cli.codec.prior_fitting import fit_prior
from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.errors import DamagedCodesError, SqueezeError
from squeeze_cli.quantizers import StepSize, create_quantizer
from squeeze_cli.training.outputs import measure_codes
from tests.codec.make_example import DATA, SIZES
from tests.codec.priors import drawn_prior, fitted_prior, smooth_codes
from tests.contracts.test_quantizers import small

CODED = [name for name in QUANTIZERS if name != "none"]


def as_file(path: Path, codes: np.ndarray, prior: CodePrior | None, **changes: object) -> Path:
    content = encode_codes(
        codes, [f"cat_{i}" for i in range(len(codes))],
        **{"quantizer": "vq", "run": "0123", "prior": prior, **changes},
    )  # fmt: skip
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("sizes", [(1,), (2,), (37,), (1000,), (9, 2, 14)])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_codes_come_back(tmp_path: Path, sizes: tuple[int, ...], n: int) -> None:
    """Codes like those that the prior was fitted to, and codes that it has never expected."""
    prior = fitted_prior(sizes, (3, 4))
    random = np.random.default_rng(0).integers(0, sizes, (n, 3, 4, len(sizes)))
    for codes in (smooth_codes(n, (3, 4), sizes, seed=9), random):
        path = as_file(tmp_path / "codes.safetensors", codes, prior, code_sizes=sizes)
        file = CodesFile(path, prior).require_run("0123")
        assert (file.header.coding, file.header.prior) == ("prior", prior.digest)
        assert np.array_equal(file.read(), codes)
        assert len(file) == n


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    n=st.integers(0, 3),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
    extreme=st.booleans(),
)
def test_any_codes_come_back_by_any_prior(
    n: int, grid: tuple[int, int], sizes: list[int], seed: int, extreme: bool
) -> None:
    prior = drawn_prior(tuple(sizes), grid, seed=seed, extreme=extreme)
    codes = np.random.default_rng(seed).integers(0, sizes, (n, *grid, len(sizes)))
    assert np.array_equal(
        decode_pieces(encode_pieces(codes, prior.code_sizes, prior), grid, prior.code_sizes, prior),
        codes,
    )


@pytest.mark.parametrize("name", CODED)
def test_every_quantizers_codes_come_back(name: str) -> None:
    torch.manual_seed(0)
    quantizer = create_quantizer(small(name), 24, StepSize(64))
    sizes = quantizer.code_sizes
    codes = smooth_codes(12, (2, 5), sizes)
    prior = fit_prior(codes[:10], quantizer.code_vectors())
    assert prior.code_sizes == sizes
    back = decode_pieces(
        encode_pieces(codes, prior.code_sizes, prior), (2, 5), prior.code_sizes, prior
    )
    assert np.array_equal(back, codes)


# --- the same on every machine, in every batch ----------------------------------------------------


def example() -> tuple[CodePrior, Path, np.ndarray]:
    """What an earlier build wrote; see make_example.py."""
    codes = np.asarray(json.loads((DATA / "codes.json").read_text()))[..., None]
    return read_prior(DATA / "prior.safetensors"), DATA / "codes.safetensors", codes


def test_a_file_of_an_earlier_build_is_read_and_written_again_to_the_last_byte() -> None:
    prior, path, codes = example()
    file = CodesFile(path, prior)
    assert np.array_equal(file.read(), codes)
    again = encode_codes(
        codes, file.names, quantizer="vq", code_sizes=SIZES, run=file.header.run, prior=prior
    )
    assert again == path.read_bytes()


def test_alone_and_in_batches_the_codes_and_the_bytes_are_the_same() -> None:
    prior, path, codes = example()
    file = CodesFile(path, prior)
    for images in (1, 2, 3, 7, 100):
        parts = [part for _, part in file.batches(images)]
        assert np.array_equal(np.concatenate(parts), codes)
    assert np.array_equal(file.read([6, 2]), codes[[6, 2]])
    together = encode_pieces(codes, prior.code_sizes, prior)
    assert [encode_pieces(image[None], prior.code_sizes, prior)[0] for image in codes] == together


def test_large_batches_are_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, _, codes = example()
    together = encode_pieces(codes, prior.code_sizes, prior)
    slots = slots_of_codes(codes, prior)
    monkeypatch.setattr("squeeze_cli.codec.coding._BLOCK_ELEMENTS", 2 * 15 * 37)
    assert encode_pieces(codes, prior.code_sizes, prior) == together
    assert encode_pieces(codes, prior.code_sizes, prior, slots) == together
    for whole, parts in zip(slots, slots_of_codes(codes, prior), strict=True):
        assert np.array_equal(whole, parts)


THREADS = """
import hashlib, sys
import numpy as np
from pathlib import Path
from squeeze_cli.codec.container import CodesFile
from squeeze_cli.codec.coding import decode_pieces, encode_pieces
from squeeze_cli.codec.prior import read_prior
data = Path(sys.argv[1])
prior = read_prior(data / "prior.safetensors")
codes = np.tile(CodesFile(data / "codes.safetensors", prior).read(), (40, 1, 1, 1))
streams = encode_pieces(codes, prior.code_sizes, prior)
assert np.array_equal(decode_pieces(streams, (3, 5), prior.code_sizes, prior), codes)
print(hashlib.sha256(b"".join(streams)).hexdigest())
assert "torch" not in sys.modules
"""


def test_one_and_two_threads_give_the_same_bytes() -> None:
    digests = set()
    for threads in ("1", "2"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        done = subprocess.run(
            [sys.executable, "-c", THREADS, str(DATA)],
            env={**os.environ, **dict.fromkeys(names, threads)},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(37,), (9, 2, 14)])
def test_the_file_is_the_cross_entropy_and_what_it_states_besides(sizes: tuple[int, ...]) -> None:
    """An image costs 32 bits of CRC and less than 12 for the stream's end; the file its index."""
    prior = fitted_prior(sizes, (3, 5))
    codes = smooth_codes(30, (3, 5), sizes, seed=3)
    slots = slots_of_codes(codes, prior)
    bits = slots.bits
    payload = sum(map(len, encode_pieces(codes, prior.code_sizes, prior)))
    assert bits / 8 + 30 * 31 / 8 < payload < bits / 8 + 30 * 44 / 8
    names = [f"cat_{i}" for i in range(30)]
    content = encode_codes(codes, names, quantizer="vq", code_sizes=sizes, prior=prior)
    with_slots = encode_codes(
        codes, names, quantizer="vq", code_sizes=sizes, prior=prior, slots=slots
    )
    assert with_slots == content
    measured = measure_codes(content, codes, feature_dim=20, slots=slots, pixels=77)
    assert measured.coding == "prior"
    assert (measured.images, measured.vectors) == (30, 450)
    assert (measured.file_bytes, measured.payload_bytes) == (len(content), payload)
    assert measured.bits_per_vector == 8 * len(content) / 450
    assert measured.payload_bits_per_vector == 8 * payload / 450
    assert measured.prior_cross_entropy_bits == pytest.approx(bits / 450)
    assert measured.bits_per_feature_point == 8 * len(content) / (450 * 20)
    assert measured.bits_per_pixel == 8 * len(content) / (30 * 77)
    assert measured.bytes_per_image == len(content) / 30
    assert measured.compression_ratio == pytest.approx(450 * 20 * 4 / len(content))


def test_the_prior_saves_most_of_what_packing_takes() -> None:
    prior, _, codes = example()
    pieces = [encode_pieces(codes, SIZES, by) for by in (prior, None)]
    coded, packed = (sum(len(piece) - 4 for piece in each) for each in pieces)
    assert coded < 0.6 * packed


# --- what is refused ------------------------------------------------------------------------------


def test_missing_and_other_priors_are_refused_and_packed_codes_need_none(tmp_path: Path) -> None:
    prior, path, codes = example()
    with pytest.raises(SqueezeError, match="coded by a prior: give the run"):
        CodesFile(path).read()
    other = drawn_prior(SIZES, (3, 5))
    with pytest.raises(SqueezeError, match=f"another prior .{prior.digest}, not {other.digest}"):
        CodesFile(path, other)
    packed = as_file(tmp_path / "codes.safetensors", codes, None, code_sizes=SIZES)
    for unused in (None, other):
        file = CodesFile(packed, unused)
        assert (file.header.coding, file.header.prior) == ("packed", "")
        assert np.array_equal(file.read(), codes)


@pytest.mark.parametrize(
    ("shape", "sizes", "fill"),
    [((2, 5, 3, 1), (37,), 0), ((2, 3, 5, 1), (38,), 0), ((2, 3, 5, 1), (37,), 37),
     ((2, 3, 5, 1), (37,), -1)],
)  # fmt: skip
def test_codes_that_are_not_the_priors_are_refused(
    shape: tuple[int, ...], sizes: tuple[int, ...], fill: int
) -> None:
    prior, _, _ = example()
    with pytest.raises(ValueError, match=r"a prior for|outside of their sizes"):
        encode_pieces(np.full(shape, fill), sizes, prior)


def test_a_damaged_byte_is_reported_never_decoded(tmp_path: Path) -> None:
    """Every bit of every byte before the payload, and thousands of changes of the payload."""
    prior = drawn_prior((37,), (2, 3))
    codes = smooth_codes(3, (2, 3), (37,))
    path = as_file(tmp_path / "codes.safetensors", codes, prior, code_sizes=(37,))
    content = path.read_bytes()
    payload = sum(map(len, encode_pieces(codes, prior.code_sizes, prior)))
    index = len(content) - payload
    random = np.random.default_rng(0)
    changes = [(at, 1 << bit) for at in range(len(content)) for bit in range(8)]
    changes += [
        (int(random.integers(index, len(content))), int(random.integers(1, 256)))
        for _ in range(1500)
    ]
    for at, change in changes:
        damaged = bytearray(content)
        damaged[at] ^= change
        path.write_bytes(damaged)
        with pytest.raises(SqueezeError):
            CodesFile(path, prior).read()


def test_swapped_and_replaced_streams_are_reported() -> None:
    """Several bytes at once: noise in place of a stream, and another image's stream cut to fit."""
    prior, _, codes = example()
    random = np.random.default_rng(1)
    stream = encode_pieces(codes, prior.code_sizes, prior)[0]
    for _ in range(500):
        noise = random.integers(0, 256, len(stream), dtype=np.uint8).tobytes()
        with pytest.raises(DamagedCodesError):
            decode_pieces([noise], (3, 5), prior.code_sizes, prior)
    for length in range(len(stream)):
        with pytest.raises(DamagedCodesError):
            decode_pieces([stream[:length]], (3, 5), prior.code_sizes, prior)
        with pytest.raises(DamagedCodesError):
            decode_pieces([stream + stream[: length + 1]], (3, 5), prior.code_sizes, prior)


def test_truncated_and_longer_files_are_reported(tmp_path: Path) -> None:
    prior, source, _ = example()
    content, path = source.read_bytes(), tmp_path / "codes.safetensors"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedCodesError, match="make it again"):
            CodesFile(path, prior)
    path.write_bytes(content + b"\0")
    with pytest.raises(DamagedCodesError, match="longer"):
        CodesFile(path, prior)
