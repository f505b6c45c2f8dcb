from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze_cli.codec.prior import (
    BIAS_LIMIT,
    COUNT_LIMIT,
    EMBEDDING_DIM,
    GATE_LIMIT,
    HIDDEN_LIMIT,
    HIDDEN_UNITS,
    OFFSETS,
    QUERY_LIMIT,
    TABLE_LIMIT,
    WEIGHT_LIMIT,
    CodePrior,
)
from squeeze_cli.codec.prior_files import read_prior, write_prior
from squeeze_cli.codec.prior_fitting import (
    PriorNetwork,
    can_have_prior,
    fit_prior,
    fitting_steps,
    round_prior,
)
from squeeze_cli.codec.range_coding import TOTAL, exponentials
from squeeze_cli.errors import DamagedCodesError, SqueezeError
from tests.codec.priors import (
    drawn_prior,
    fitted_prior,
    reference_frequencies,
    ring_vectors,
    smooth_codes,
)

EXACT = 2**24


def slots_by_reference(codes_hwq: np.ndarray, prior: CodePrior) -> tuple[np.ndarray, np.ndarray]:
    """First slots and numbers of slots of one image's codes."""
    starts, slots = np.empty_like(codes_hwq), np.empty_like(codes_hwq)
    seen = [np.zeros(size, np.int64) for size in prior.code_sizes]
    for row, column in np.ndindex(*prior.grid):
        for q, code in enumerate(codes_hwq[row, column]):
            held = reference_frequencies(prior, q, (row, column), codes_hwq, seen[q])
            starts[row, column, q], slots[row, column, q] = held[:code].sum(), held[code]
            seen[q][code] += 1
    return starts, slots


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("sizes", [(1,), (2,), (37,), (1000,), (9, 2, 14)])
def test_slots_are_those_of_integer_arithmetic(sizes: tuple[int, ...], extreme: bool) -> None:
    """Float32 products give what int64 gives, also where all numbers are at their limits."""
    for seed in range(3):
        prior = drawn_prior(sizes, (3, 5), seed=seed, extreme=extreme)
        codes = np.random.default_rng(seed).integers(0, sizes, (2, 3, 5, len(sizes)))
        codes[0, :, :3] = codes[0, 0, 0]  # the same code again and again: counts up to the limit
        found = prior.slots(codes)
        for image in range(2):
            expected = slots_by_reference(codes[image], prior)
            for ours, theirs in zip(found, expected, strict=True):
                assert np.array_equal(ours[image].reshape(theirs.shape), theirs)


@pytest.mark.parametrize(
    ("terms", "left", "right", "more"),
    [
        (EMBEDDING_DIM, WEIGHT_LIMIT, WEIGHT_LIMIT, 0),
        (HIDDEN_UNITS, HIDDEN_LIMIT, WEIGHT_LIMIT, 0),
        (EMBEDDING_DIM, QUERY_LIMIT, WEIGHT_LIMIT, BIAS_LIMIT + BIAS_LIMIT // GATE_LIMIT * GATE_LIMIT),
    ],
)  # fmt: skip
def test_sums_at_their_limits_are_exact_in_float32(
    terms: int, left: int, right: int, more: int
) -> None:
    assert terms * left * right + more < EXACT
    random = np.random.default_rng(0)
    for shape in ((1, 3), (7, 33)):
        for a, b in (
            (np.full((shape[0], terms), left), np.full((terms, shape[1]), right)),
            (left * random.choice([-1, 1], (shape[0], terms)),
             right * random.choice([-1, 1], (terms, shape[1]))),
        ):  # fmt: skip
            for sign in (1, -1):
                exact = a @ b + sign * more
                product = a.astype(np.float32) @ b.astype(np.float32) + np.float32(sign * more)
                assert np.array_equal(product.astype(np.int64), exact)


def test_table_entries_fit_their_16_bits_where_the_shift_is_the_fitted_one() -> None:
    largest = EMBEDDING_DIM * WEIGHT_LIMIT**2
    assert largest >> math.ceil(math.log2(largest / TABLE_LIMIT)) <= TABLE_LIMIT


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("size", [1, 2, 37, 4096])
def test_frequencies_are_at_least_one_and_add_up(size: int, extreme: bool) -> None:
    random = np.random.default_rng(size)
    for seed in range(4):
        prior = drawn_prior((size,), (2, 3), seed=seed, extreme=extreme)
        context = random.integers(0, size, (11, len(OFFSETS) + 1))
        context[:, :-1] += random.integers(0, 2, (11, len(OFFSETS)))  # some lie outside
        counts = random.integers(0, COUNT_LIMIT + 1, (11, size)).astype(np.uint8)
        frequencies = prior.evaluators[0].frequencies(random.integers(0, 6, 11), context, counts)
        assert frequencies.min() >= 1
        assert (frequencies.sum(axis=1) == TOTAL).all()


def test_the_exponential_table_is_the_documented_one() -> None:
    table = exponentials()
    assert (len(table), table[0], table[1]) == (4096, 2**24, 16711808)
    assert (table[256], table[-1]) == (6171993, 2)
    assert (table == np.floor(table)).all()
    assert np.abs(table - 2**24 * np.exp(-np.arange(4096) / 256)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("sizes", [(40,), (12, 9, 15)])
def test_rounding_costs_less_than_a_hundredth(sizes: tuple[int, ...]) -> None:
    """The float network's cross entropy against that of its whole numbers, on codes not seen."""
    grid = (4, 6)
    codes = torch.from_numpy(smooth_codes(60, grid, sizes))
    torch.manual_seed(0)
    network = PriorNetwork(codes[:40], [ring_vectors(size) for size in sizes])
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        network.loss(codes[:40]).backward()
        optimizer.step()
    network.eval()
    unseen = codes[40:]
    with torch.no_grad():
        bits = float(network.loss(unseen)) * unseen.numel() / math.log(2)
    rounded = round_prior(network, codes[:40]).slots(unseen.numpy()).bits
    even = 20 * 24 * sum(math.log2(size) for size in sizes)
    assert bits < 0.8 * even  # it has learned something that rounding could lose
    # It can gain too: a code keeps its one slot where the float network is all too sure.
    assert 0.95 * bits < rounded < 1.01 * bits


def test_a_prior_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    codes, vectors = smooth_codes(6, (2, 3), (7,)), [ring_vectors(7)]
    state = torch.random.get_rng_state()
    digests = [fit_prior(codes, vectors, seed=seed).digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(state, torch.random.get_rng_state())


def test_codes_too_large_for_a_prior() -> None:
    assert can_have_prior((4096, 2))
    assert not can_have_prior((2, 4097))
    assert not can_have_prior(())


# --- the prior's file ---------------------------------------------------------------------------


def test_a_prior_comes_back_from_its_file(tmp_path: Path) -> None:
    prior = fitted_prior((9, 2, 14), (3, 5))
    write_prior(tmp_path / "prior.safetensors", prior)
    back = read_prior(tmp_path / "prior.safetensors")
    assert (back.digest, back.grid, back.code_sizes) == (prior.digest, (3, 5), (9, 2, 14))
    for name, array in prior.arrays().items():
        assert back.arrays()[name].dtype == array.dtype
        assert np.array_equal(back.arrays()[name], array)
    assert [p.name for p in tmp_path.iterdir()] == ["prior.safetensors"]


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), name=st.sampled_from(sorted(drawn_prior((3,), (1, 2)).arrays())))
def test_another_number_is_another_digest(seed: int, name: str) -> None:
    prior = drawn_prior((3,), (1, 2), seed=seed)
    arrays = {key: array.copy() for key, array in prior.arrays().items()}
    arrays[name].reshape(-1)[seed % arrays[name].size] ^= 1
    assert CodePrior.from_arrays(arrays).digest != prior.digest


def test_damaged_bytes_of_a_priors_file_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    write_prior(path, drawn_prior((6,), (2, 3)))
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    random = np.random.default_rng(0)
    # The header's padding means nothing; all of the rest of it, and some of the arrays.
    places = [*range(len(content[:header].rstrip())), *random.integers(header, len(content), 100)]
    for at in places:
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(SqueezeError):
            read_prior(path)
    for length in [0, 7, 8, header // 2, header, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(DamagedCodesError, match="train the run again"):
            read_prior(path)


def test_missing_and_newer_priors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    with pytest.raises(SqueezeError, match="whole folder of the run"):
        read_prior(path)
    write_prior(path, drawn_prior((6,), (2, 3)))
    path.write_bytes(path.read_bytes().replace(b'"version":"1"', b'"version":"3"'))
    with pytest.raises(SqueezeError, match="update squeeze"):
        read_prior(path)


@pytest.mark.parametrize("images", [1, 8, 9, 10, 11, 12])
def test_a_prior_of_few_steps_is_fitted(images: int) -> None:
    codes = np.arange(images * 50).reshape(images, 10, 5, 1) % 4
    assert fitting_steps(codes.shape) == images
    prior = fit_prior(codes, [torch.eye(4)])
    assert prior.code_sizes == (4,)
