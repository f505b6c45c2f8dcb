"""The prior of transform coefficients: any codes come back, in few bits, the same on every machine."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from squeeze_cli.codec.coding import encode_blocks
from squeeze_cli.codec.coefficient_prior import CoefficientPrior, fit_coefficients
from squeeze_cli.codec.container import CodesFile, encode_codes
from squeeze_cli.codec.prior_files import read_prior, write_prior
from squeeze_cli.errors import DamagedCodesError, SqueezeError
from tests.codec.test_prior_coding import there_and_back

LEVELS, GRID, AXES = 31, (4, 3), 5


def coefficients(images: int, seed: int, scale: float = 6.0) -> np.ndarray:
    """Laplace-distributed coefficients that fall with the frequency and the axis, `[n, h, w, D]`."""
    generator = np.random.default_rng(seed)
    fall = 1 + np.add.outer(np.add.outer(np.arange(4), np.arange(3)), np.arange(AXES))
    drawn = np.rint(generator.laplace(0, scale / fall**2, (images, *GRID, AXES)))
    return np.clip(drawn, -15, 15).astype(np.int64) + LEVELS // 2


@pytest.mark.parametrize("images", [1, 3, 7, 20])
@pytest.mark.parametrize("fitted", [0, 1, 50])
def test_any_codes_come_back(images: int, fitted: int) -> None:
    """Typical ones, images of zeros, values in coefficients that training never used, and noise."""
    prior = fit_coefficients(coefficients(max(fitted, 1), 0, 6.0 if fitted else 0.0), LEVELS)
    CoefficientPrior.from_arrays(prior.arrays())
    codes = coefficients(20, 1)
    codes[2] = LEVELS // 2
    codes[3, 3, 2, 4] = 0
    codes[4, 0, 0] = LEVELS - 1
    codes[5] = np.random.default_rng(2).integers(0, LEVELS, codes[5].shape)
    assert np.array_equal(there_and_back(codes, prior, images), codes)


def test_a_file_of_no_images(tmp_path: Path) -> None:
    prior, codes = fit_coefficients(coefficients(5, 0), LEVELS), coefficients(1, 0)[:0]
    content = encode_codes(codes, [], quantizer="dct", code_sizes=prior.code_sizes, prior=prior)
    (tmp_path / "codes.sqz").write_bytes(content)
    assert CodesFile(tmp_path / "codes.sqz", prior).read().shape == (0, *GRID, AXES)


def test_codes_take_little_more_than_their_entropy() -> None:
    train, test = coefficients(2000, 0), coefficients(2000, 1)
    prior = fit_coefficients(train, LEVELS)
    found = prior.slots(test).bits / len(test)
    entropy = 0.0
    for own in test.reshape(len(test), -1).T:
        shares = np.bincount(own) / len(test)
        entropy -= (shares[shares > 0] * np.log2(shares[shares > 0])).sum()
    assert entropy < found < 1.05 * entropy
    file = encode_codes(
        test, [f"i{i}" for i in range(2000)], quantizer="dct", code_sizes=prior.code_sizes,
        prior=prior,
    )  # fmt: skip
    assert len(file) < 1.05 * len(test) * found / 8 + 1000


def test_coefficients_that_training_never_used_cost_next_to_nothing() -> None:
    """One flag for each frequency, whose probability is estimated by what single images use."""
    train = np.full((200, 8, 8, 64), LEVELS // 2)
    train[:, 0, 0, 0] += np.arange(200) % 3 - 1
    prior = fit_coefficients(train, LEVELS)
    assert prior.used.sum() == 1
    silent = replace(prior, used=prior.used * 0, zero=prior.zero[:0], decay=prior.decay[:0])
    zeros = np.full_like(train, LEVELS // 2)
    assert silent.slots(zeros).bits / 200 < 0.01


def test_the_same_bytes_on_every_machine() -> None:
    """All of it is integers; the digest is that of the first build."""
    prior = CoefficientPrior(
        (np.indices((2, 2, 3)).sum(axis=0) < 2).astype(np.uint8),
        np.array([0, 300, 700, 100], np.int16), np.array([20, 300, 700, 90], np.int16),
        np.array([900, 700, 281], np.int16), np.array([9], np.int32),
    )  # fmt: skip
    CoefficientPrior.from_arrays(prior.arrays())
    codes = (np.arange(5 * 12).reshape(5, 2, 2, 3) * 7) % 9
    blocks = encode_blocks(codes, prior.code_sizes, [3, 2], [1, 2], prior)
    assert (zlib.crc32(b"".join(blocks)), prior.digest) == (162645666, "80d62d87")


def test_a_prior_is_written_and_read_and_refused_where_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    prior = fit_coefficients(coefficients(50, 0), LEVELS)
    write_prior(path, prior)
    first = path.read_bytes()
    again = read_prior(path)
    assert isinstance(again, CoefficientPrior)
    assert again.digest == prior.digest
    write_prior(path, again)
    assert path.read_bytes() == first
    for wrong in (
        replace(prior, zero=prior.zero[1:]),
        replace(prior, decay=-prior.decay),
        replace(prior, levels=np.array([30], np.int32)),
        replace(prior, used=prior.used * 2),
        replace(prior, rest=prior.rest.astype(np.int32)),
        CoefficientPrior(
            *(
                np.zeros(s, t)
                for s, t in (((0, 3, 2), np.uint8), (0, np.int16), (0, np.int16), (3, np.int16))
            ),
            np.array([9], np.int32),
        ),
        CoefficientPrior(  # a table of 13 GB
            np.ones((1, 1, 100_000), np.uint8),
            np.arange(100_000, dtype=np.int16) % 30_000,
            np.arange(100_000, dtype=np.int16) // 30_000,
            prior.rest,
            np.array([32_767], np.int32),
        ),
    ):
        write_prior(path, wrong)
        with pytest.raises(DamagedCodesError, match="other tensors"):
            read_prior(path)
    path.write_bytes(first[:-3] + b"\x01\x01\x01")
    with pytest.raises(SqueezeError, match="is damaged"):
        read_prior(path)


def test_every_damaged_byte_of_a_file_is_found(tmp_path: Path) -> None:
    prior, codes = fit_coefficients(coefficients(50, 0), LEVELS), coefficients(4, 3)
    content = encode_codes(
        codes, list("abcd"), quantizer="dct", code_sizes=prior.code_sizes, prior=prior
    )
    path = tmp_path / "codes.sqz"
    path.write_bytes(content)
    assert np.array_equal(CodesFile(path, prior).read(), codes)
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(SqueezeError):
            CodesFile(path, prior).read()
