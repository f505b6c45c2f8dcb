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
from threadpoolctl import threadpool_info, threadpool_limits

from squeeze_cli.codec import prior as prior_module
from squeeze_cli.codec.coding import decode_blocks, encode_blocks
from squeeze_cli.codec.container import CodesFile, encode_codes
from squeeze_cli.codec.index import block_checksums, find_blocks
from squeeze_cli.codec.prior import CodePrior, SymbolEvaluator
from squeeze_cli.codec.prior_files import read_prior
from squeeze_cli.codec.prior_fitting import fit_prior
from squeeze_cli.errors import DamagedCodesError, SqueezeError
from squeeze_cli.quantizers import TrainingStep, create_quantizer
from squeeze_cli.training.measure import measure_codes
from tests.codec.make_example import DATA, SIZES
from tests.codec.priors import drawn_prior, fitted_prior, ring_vectors, smooth_codes
from tests.conftest import OWN_QUANTIZERS
from tests.contracts.test_quantizers import small

# The prior of dct: test_coefficient_prior.py.
CODED = [name for name in OWN_QUANTIZERS if name not in ("none", "dct")]


def as_file(path: Path, codes: np.ndarray, prior: CodePrior | None, **changes: object) -> Path:
    content = encode_codes(
        codes, [f"cat_{i}" for i in range(len(codes))],
        **{"quantizer": "vq", "run": "0123", "prior": prior, **changes},
    )  # fmt: skip
    path.write_bytes(content)
    return path


def blocks_of(
    codes: np.ndarray, prior: CodePrior | None, images: int, line: bytes = b""
) -> list[bytes]:
    sizes = SIZES if prior is None else prior.code_sizes
    counts = [len(codes[begin : begin + images]) for begin in range(0, len(codes), images)]
    return encode_blocks(codes, sizes, counts, block_checksums(line, len(counts)), prior)


def decoded(
    blocks: list[bytes], counts: list[int], prior: CodePrior, line: bytes = b""
) -> np.ndarray:
    checksums = block_checksums(line, len(blocks))
    return decode_blocks(blocks, counts, checksums, prior.grid, prior.code_sizes, prior)


def there_and_back(codes: np.ndarray, prior: CodePrior, images: int) -> np.ndarray:
    """The codes, decoded from blocks of so many images."""
    counts = [len(codes[begin : begin + images]) for begin in range(0, len(codes), images)]
    return decoded(blocks_of(codes, prior, images), counts, prior)


@pytest.mark.parametrize("sizes", [(1,), (2,), (37,), (1000,), (9, 2, 14)])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_codes_come_back(tmp_path: Path, sizes: tuple[int, ...], n: int) -> None:
    """Codes like those that the prior was fitted to, and codes that it has never expected."""
    prior = fitted_prior(sizes, (3, 4))
    random = np.random.default_rng(0).integers(0, sizes, (n, 3, 4, len(sizes)))
    for codes in (smooth_codes(n, (3, 4), sizes, seed=9), random):
        path = as_file(tmp_path / "codes.sqz", codes, prior, code_sizes=sizes)
        file = CodesFile(path, prior).require_run("0123")
        assert (file.header.coding, file.header.prior) == ("prior", prior.digest)
        assert np.array_equal(file.read(), codes)
        assert len(file) == n


@pytest.mark.parametrize("given", [1, 2, 3])
def test_the_first_codes_of_vectors_come_back_alone(tmp_path: Path, given: int) -> None:
    sizes = (9, 2, 14)
    prior, codes = fitted_prior(sizes, (3, 4)), smooth_codes(5, (3, 4), sizes, seed=9)
    first = codes[..., :given]
    path = as_file(tmp_path / "codes.sqz", first, prior, code_sizes=sizes[:given])
    file = CodesFile(path, prior)
    assert file.header.code_sizes == sizes[:given]
    assert np.array_equal(file.read(), first)
    with pytest.raises(ValueError, match="a prior for"):  # the later codes have other sizes
        as_file(path, codes[..., 1:], prior, code_sizes=sizes[1:])


@pytest.mark.slow
def test_a_prior_is_fitted_to_the_first_codes_too() -> None:
    """It takes fewer bits for them than one that has always seen all codes of the neighbours."""
    sizes, grid = (12, 12), (6, 5)
    train, test = (smooth_codes(n, grid, sizes, seed=n) for n in (60, 20))
    vectors = [ring_vectors(size) for size in sizes]
    bits = {
        prefixes: [
            fit_prior(train, vectors, prefixes=prefixes).slots(test[..., :given]).bits
            for given in (1, 2)
        ]
        for prefixes in (False, True)
    }
    assert bits[True][0] < 0.96 * bits[False][0]
    assert bits[True][1] < 1.02 * bits[False][1]


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
    for images in (1, 2, 5):
        assert np.array_equal(there_and_back(codes, prior, images), codes)


@pytest.mark.parametrize("name", CODED)
def test_every_quantizers_codes_come_back(name: str) -> None:
    torch.manual_seed(0)
    quantizer = create_quantizer(small(name), 24, TrainingStep(64))
    sizes = quantizer.code_sizes
    codes = smooth_codes(12, (2, 5), sizes)
    prior = fit_prior(codes[:10], quantizer.code_vectors())
    assert prior.code_sizes == sizes
    assert np.array_equal(there_and_back(codes, prior, 5), codes)


# --- the same on every machine, in every batch ----------------------------------------------------


def example(file: str = "codes.sqz") -> tuple[CodePrior, Path, np.ndarray]:
    """What an earlier build wrote; see make_example.py."""
    codes = np.asarray(json.loads((DATA / "codes.json").read_text()))[..., None]
    return read_prior(DATA / "prior.safetensors"), DATA / file, codes


def test_a_file_of_an_earlier_build_is_read_and_written_again_to_the_last_byte() -> None:
    prior, path, codes = example()
    file = CodesFile(path, prior)
    assert np.array_equal(file.read(), codes)
    again = encode_codes(
        codes, file.names, quantizer="vq", code_sizes=SIZES, run=file.header.run, prior=prior
    )
    assert again == path.read_bytes()


def test_a_file_of_version_1_holds_the_same_as_one_of_version_2() -> None:
    prior, path, codes = example("codes.safetensors")
    old, new = CodesFile(path, prior), CodesFile(example()[1], prior)
    assert np.array_equal(old.read(), codes)
    assert np.array_equal(old.read([6, 2]), codes[[6, 2]])
    assert np.array_equal(np.concatenate([part for _, part in old.batches(3)]), codes)
    assert old.names == new.names
    other = {"images_per_block", "names"}
    assert old.header.model_dump(exclude=other) == new.header.model_dump(exclude=other)


def test_each_image_begins_anew() -> None:
    """A block holds the codes of its images as blocks of one image each do, but for the ends."""
    prior, _, codes = example()
    starts, frequencies = prior.slots(codes)
    for number, image in enumerate(codes):
        for whole, alone in zip((starts, frequencies), prior.slots(image[None]), strict=True):
            assert np.array_equal(whole[number], alone[0])
    for images in (1, 2, 3, 7, 100):
        assert np.array_equal(there_and_back(codes, prior, images), codes)


def test_blocks_are_the_same_whatever_is_coded_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, _, codes = example()
    together = blocks_of(codes, prior, 2)
    assert len(together) == 4
    assert blocks_of(codes[:4], prior, 2) == together[:2]
    slots = prior.slots(codes)
    monkeypatch.setattr("squeeze_cli.codec.prior._BLOCK_ELEMENTS", 2 * 15 * 37)
    assert blocks_of(codes, prior, 2) == together
    assert (
        encode_blocks(codes, SIZES, [2, 2, 2, 1], block_checksums(b"", 4), prior, slots) == together
    )
    for whole, parts in zip(slots, prior.slots(codes), strict=True):
        assert np.array_equal(whole, parts)
    parts = [decoded(together[:2], [2, 2], prior), decoded(together[:1], [2], prior)]
    assert [len(part) for part in parts] == [4, 2]
    assert np.array_equal(np.concatenate(parts), codes[[0, 1, 2, 3, 0, 1]])


THREADS = """
import hashlib, sys
import numpy as np
from pathlib import Path
from squeeze_cli.codec.container import CodesFile
from squeeze_cli.codec.container import encode_codes
from squeeze_cli.codec.prior_files import read_prior
data, copy = map(Path, sys.argv[1:])
prior = read_prior(data / "prior.safetensors")
codes = np.tile(CodesFile(data / "codes.sqz", prior).read(), (60, 1, 1, 1))
names = map(str, range(len(codes)))
content = encode_codes(codes, [*names], quantizer="vq", code_sizes=prior.code_sizes, prior=prior)
copy.write_bytes(content)
assert np.array_equal(CodesFile(copy, prior).read(), codes)
print(hashlib.sha256(content).hexdigest())
assert "torch" not in sys.modules
"""


def test_small_products_are_not_spread_over_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other at each of them would take a multiple of the time."""
    prior = read_prior(DATA / "prior.safetensors")
    codes = CodesFile(DATA / "codes.sqz", prior).read()
    blocks = blocks_of(codes, prior, len(codes))
    used, frequencies = set(), SymbolEvaluator.frequencies
    libraries = prior_module._blas().select(user_api="blas").info()  # FAISS has one of its own
    own = {library["filepath"] for library in libraries}

    def recorded(self: SymbolEvaluator, *arguments: np.ndarray) -> np.ndarray:
        used.update(p["num_threads"] for p in threadpool_info() if p["filepath"] in own)
        return frequencies(self, *arguments)

    with threadpool_limits(2, user_api="blas"):
        monkeypatch.setattr(SymbolEvaluator, "frequencies", recorded)
        assert np.array_equal(decoded(blocks, [len(codes)], prior), codes)
        monkeypatch.undo()
        assert {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"} == {2}
    assert used == {1}


def test_one_and_two_threads_give_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for threads in ("1", "2"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        done = subprocess.run(
            [sys.executable, "-c", THREADS, str(DATA), str(tmp_path / threads)],
            env={**os.environ, **dict.fromkeys(names, threads)},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(37,), (9, 2, 14)])
def test_the_file_is_the_cross_entropy_and_what_it_states_besides(sizes: tuple[int, ...]) -> None:
    """A block costs 32 bits of CRC and less than 12 for the stream's end; the file its index."""
    prior = fitted_prior(sizes, (3, 5))
    codes = smooth_codes(30, (3, 5), sizes, seed=3)
    slots = prior.slots(codes)
    bits = slots.bits
    for images in (1, 7, 30):
        blocks = blocks_of(codes, prior, images)
        payload = sum(map(len, blocks))
        assert bits / 8 + len(blocks) * 31 / 8 < payload < bits / 8 + len(blocks) * 44 / 8
    names = [f"cat_{i}" for i in range(30)]
    content = encode_codes(codes, names, quantizer="vq", code_sizes=sizes, prior=prior)
    with_slots = encode_codes(
        codes, names, quantizer="vq", code_sizes=sizes, prior=prior, slots=slots
    )
    assert with_slots == content
    measured = measure_codes(
        content, codes, feature_dim=20, slots=slots, vectors=codes[..., 0].size, pixels=77
    )
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
    (coded,), (packed,) = (blocks_of(codes, by, 7) for by in (prior, None))
    assert len(coded) - 4 < 0.6 * (len(packed) - 4)


@pytest.mark.parametrize(
    ("names", "most"),
    [
        # The test list of 149 photographs: at most a tenth of a bit per vector.
        ([f"{breed}_{i}" for breed in ("Abyssinian", "american_bulldog", "Bengal")
          for i in sorted(range(1, 201, 4), key=str)][:149], 365),
        ([f"img_{i:05d}" for i in range(2000)], 2000 * 0.7),
    ],
)  # fmt: skip
def test_a_file_costs_little_beside_what_its_codes_tell(names: list[str], most: float) -> None:
    """Bytes beyond `sum(20 - log2 slots)`, which the codes of 14 x 14 vectors are made to tell."""
    prior = drawn_prior((4,), (14, 14))
    codes = np.random.default_rng(0).integers(0, 4, (len(names), 14, 14, 1))
    slots = prior.slots(codes)
    content = encode_codes(
        codes, names, quantizer="vq", code_sizes=(4,), run="9f86d081884c7d65", prior=prior,
        slots=slots,
    )  # fmt: skip
    assert len(content) - slots.bits / 8 < most


# --- what is refused ------------------------------------------------------------------------------


def test_missing_and_other_priors_are_refused_and_packed_codes_need_none(tmp_path: Path) -> None:
    prior, path, codes = example()
    with pytest.raises(SqueezeError, match="coded by a prior: give the run"):
        CodesFile(path).read()
    other = drawn_prior(SIZES, (3, 5))
    with pytest.raises(SqueezeError, match=f"another prior .{prior.digest}, not {other.digest}"):
        CodesFile(path, other)
    packed = as_file(tmp_path / "codes.sqz", codes, None, code_sizes=SIZES)
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
        encode_blocks(np.full(shape, fill), sizes, [2], [0], prior)


@pytest.mark.slow
def test_a_damaged_byte_is_reported_never_decoded(tmp_path: Path) -> None:
    """Every bit of every byte before the payload, and thousands of changes of the payload."""
    prior = drawn_prior((37,), (2, 3))
    codes = smooth_codes(3, (2, 3), (37,))
    path = as_file(tmp_path / "codes.sqz", codes, prior, code_sizes=(37,))
    content = path.read_bytes()
    _, index = find_blocks(content)
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
    """Several bytes at once: noise in place of a stream, another place, and one cut to fit."""
    prior, _, codes = example()
    random = np.random.default_rng(1)
    stream, other, _ = blocks_of(codes, prior, 3)
    for _ in range(500):
        noise = random.integers(0, 256, len(stream), dtype=np.uint8).tobytes()
        with pytest.raises(DamagedCodesError):
            decoded([noise], [3], prior)
    for length in range(len(stream)):
        with pytest.raises(DamagedCodesError):
            decoded([stream[:length]], [3], prior)
        with pytest.raises(DamagedCodesError):
            decoded([stream + stream[: length + 1]], [3], prior)
    assert np.array_equal(decoded([stream, other], [3, 3], prior), codes[:6])
    for blocks, counts in (
        ([other, stream], [3, 3]),
        ([other], [3]),
        ([stream], [2]),
        ([stream], [4]),
    ):
        with pytest.raises(DamagedCodesError):
            decoded(blocks, counts, prior)
    with pytest.raises(DamagedCodesError):
        decoded([stream], [3], prior, line=b"{}")


def test_truncated_and_longer_files_are_reported(tmp_path: Path) -> None:
    prior, source, _ = example()
    content, path = source.read_bytes(), tmp_path / "codes.sqz"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedCodesError, match="make it again"):
            CodesFile(path, prior)
    path.write_bytes(content + b"\0")
    with pytest.raises(DamagedCodesError, match="lengths"):
        CodesFile(path, prior)
