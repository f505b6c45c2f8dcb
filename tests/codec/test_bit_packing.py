from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeeze_cli.codec.coding import (
    choose_layouts,
    pack_codes,
    unpack_codes,
)
from squeeze_cli.errors import DamagedCodesError

SIZES = st.lists(st.integers(1, 2**20), min_size=1, max_size=5)


@given(sizes=SIZES, vectors=st.integers(0, 40), seed=st.integers(0, 2**32 - 1))
def test_round_trip(sizes: list[int], vectors: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, sizes, (vectors, len(sizes)))
    if vectors:
        codes[0] = np.asarray(sizes) - 1
    packed = pack_codes(codes, sizes)
    assert np.array_equal(unpack_codes(packed, vectors, sizes), codes)


@pytest.mark.parametrize(
    ("sizes", "vectors", "expected_bytes"),
    [
        ((512,), 196, 221),  # 9 bits per vector
        ((1000,), 196, 245),  # 10
        ((256,) * 4, 196, 784),  # 32
        ((300,) * 4, 196, 809),  # 33 together, 36 apart
        ((2**20,) * 5, 3, 38),  # 100 bits per vector: no word holds them, each code is one
        ((1,), 7, 0),
    ],
)
def test_sizes_on_disk(sizes: tuple[int, ...], vectors: int, expected_bytes: int) -> None:
    packed = pack_codes(np.zeros((vectors, len(sizes)), int), sizes)
    assert len(packed) == expected_bytes
    assert not unpack_codes(packed, vectors, sizes).any()


@given(sizes=SIZES)
def test_words_never_take_more_than_single_codes(sizes: list[int]) -> None:
    layouts = choose_layouts(tuple(sizes))
    alone = sum((size - 1).bit_length() for size in sizes)
    per_code = [layout.bits / len(layout.radices) for layout in layouts]
    together = sum(per_code) * len(sizes) / len(layouts)
    assert together <= alone
    assert all(prod(layout.radices) <= 2**63 for layout in layouts)


def test_the_layout_is_the_documented_one() -> None:
    """Nine bits each, most significant first, zeros behind."""
    packed = pack_codes(np.array([[5], [511], [256]]), (512,))
    bits = "000000101" + "111111111" + "100000000"
    assert packed == int(bits.ljust(32, "0"), 2).to_bytes(4, "big")


def test_what_no_encoder_wrote_is_refused() -> None:
    packed = bytearray(pack_codes(np.zeros((3, 1), int), (1000,)))
    with pytest.raises(DamagedCodesError, match="bytes are not"):
        unpack_codes(bytes(packed[:-1]), 3, (1000,))
    packed[-1] |= 1  # behind the last code
    with pytest.raises(DamagedCodesError, match="not zero"):
        unpack_codes(bytes(packed), 3, (1000,))
    with pytest.raises(DamagedCodesError, match="beyond its size"):
        unpack_codes(b"\xff\xff\xff\xfc", 3, (1000,))
    with pytest.raises(ValueError, match="outside"):
        pack_codes(np.array([[8]]), (8,))
    with pytest.raises(ValueError, match="outside"):
        pack_codes(np.array([[-1]]), (8,))
