from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeeze_cli.codec.range_coding import TOTAL, StreamDecoder, encode_streams
from squeeze_cli.errors import DamagedCodesError


def random_model(steps: int, streams: int, symbols: int, seed: int) -> tuple:
    """Frequencies `[T, B, K]` from even to very uneven, and symbols `[T, B]`."""
    random = np.random.default_rng(seed)
    weights = random.gamma(0.1, size=(steps, streams, symbols)) + 1e-9
    frequencies = 1 + np.floor(
        weights / weights.sum(axis=2, keepdims=True) * (TOTAL - symbols)
    ).astype(np.int64)
    frequencies[..., 0] += TOTAL - frequencies.sum(axis=2)
    return frequencies, random.integers(0, symbols, (steps, streams))


def encode(frequencies: np.ndarray, chosen: np.ndarray, seeds: np.ndarray) -> list[bytes]:
    starts = np.cumsum(frequencies, axis=2) - frequencies
    pick = chosen[..., None]
    return encode_streams(
        np.take_along_axis(starts, pick, 2)[..., 0],
        np.take_along_axis(frequencies, pick, 2)[..., 0],
        seeds,
    )


def decode(frequencies: np.ndarray, streams: list[bytes]) -> tuple[np.ndarray, list[int]]:
    decoder = StreamDecoder(streams)
    chosen = np.zeros(frequencies.shape[:2], np.int64)
    rows = np.arange(len(streams))
    for step, table in enumerate(frequencies):
        upper = np.cumsum(table, axis=1)
        chosen[step] = (upper <= decoder.slots()[:, None]).sum(axis=1)
        frequency = table[rows, chosen[step]]
        decoder.advance(upper[rows, chosen[step]] - frequency, frequency)
    return chosen, decoder.finish()


@given(
    steps=st.integers(0, 30), streams=st.integers(1, 5), symbols=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_round_trip_with_seeds(steps: int, streams: int, symbols: int, seed: int) -> None:
    frequencies, chosen = random_model(steps, streams, symbols, seed)
    seeds = np.random.default_rng(seed).integers(0, 2**32, streams)
    seeds[0] = 2**32 - 1
    coded = encode(frequencies, chosen, seeds)
    back, given_back = decode(frequencies, coded)
    assert np.array_equal(back, chosen)
    assert np.array_equal(given_back, seeds)


def test_a_stream_is_the_same_alone_and_beside_others() -> None:
    frequencies, chosen = random_model(50, 7, 33, seed=1)
    seeds = np.arange(7)
    together = encode(frequencies, chosen, seeds)
    for b in range(7):
        alone = encode(frequencies[:, b : b + 1], chosen[:, b : b + 1], seeds[b : b + 1])
        assert alone == [together[b]]


def test_size_is_the_cross_entropy_the_seed_and_the_end() -> None:
    """32 bits of the seed and less than 12 bits for the end, whatever the symbols hold."""
    frequencies, chosen = random_model(196, 20, 100, seed=2)
    taken = np.take_along_axis(frequencies, chosen[..., None], 2)[..., 0]
    information = -np.log2(taken / TOTAL).sum(axis=0)
    for coded, bits in zip(encode(frequencies, chosen, np.arange(20)), information, strict=True):
        assert bits + 31 < 8 * len(coded) < bits + 32 + 12


def test_damage_never_gives_back_symbols_with_their_checksum() -> None:
    frequencies, chosen = random_model(60, 1, 50, seed=3)
    check = zlib.crc32(chosen.astype("<u4").tobytes())
    (coded,) = encode(frequencies, chosen, np.array([check]))
    random = np.random.default_rng(4)
    for _ in range(2000):
        damaged = bytearray(coded)
        damaged[random.integers(len(coded))] ^= int(random.integers(1, 256))
        try:
            back, seed = decode(frequencies, [bytes(damaged)])
        except DamagedCodesError:
            continue
        assert zlib.crc32(back.astype("<u4").tobytes()) != seed[0]


@pytest.mark.parametrize("length", range(0, 40, 3))
def test_truncated_streams_are_reported(length: int) -> None:
    frequencies, chosen = random_model(60, 1, 50, seed=5)
    (coded,) = encode(frequencies, chosen, np.array([9]))
    with pytest.raises(DamagedCodesError):
        decode(frequencies, [coded[:length]])
