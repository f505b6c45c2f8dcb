"""A reader written from docs/codes-format.md alone, with Python's integers, reads what ours wrote."""

from __future__ import annotations

import json
import zlib

import numpy as np
from safetensors import safe_open

from squeeze_cli.codec.coding import encode_pieces
from squeeze_cli.codec.prior import CodePrior, read_prior
from tests.codec.make_example import DATA
from tests.codec.priors import fitted_prior, reference_frequencies, smooth_codes


def read_stream(stream: bytes, prior: CodePrior) -> np.ndarray:
    """The codes `[h, w, Q]` of one image."""
    codes = np.zeros((*prior.grid, len(prior.code_sizes)), np.int64)
    seen = [np.zeros(size, np.int64) for size in prior.code_sizes]
    state, at = int.from_bytes(stream[:5], "big"), 5
    for row, column in np.ndindex(*prior.grid):
        for q in range(len(prior.code_sizes)):
            slots = reference_frequencies(prior, q, (row, column), codes, seen[q])
            starts = np.cumsum(slots) - slots
            slot = state % 2**20
            code = int(np.flatnonzero(starts <= slot)[-1])
            state = int(slots[code]) * (state >> 20) + slot - int(starts[code])
            while state < 2**32:
                state, at = 256 * state + stream[at], at + 1
            codes[row, column, q] = code
            seen[q][code] += 1
    assert at == len(stream)
    assert state - 2**32 == zlib.crc32(codes.astype("<u4").tobytes())
    return codes


def test_the_committed_file() -> None:
    prior = read_prior(DATA / "prior.safetensors")
    with safe_open(DATA / "codes.safetensors", "np") as file:
        lengths, payload = file.get_tensor("lengths"), file.get_tensor("payload").tobytes()
        assert file.metadata()["prior"] == prior.digest
    ends = np.cumsum(lengths, dtype=np.int64)
    images = [
        read_stream(payload[end - length : end], prior)[..., 0].tolist()
        for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)
    ]
    assert images == json.loads((DATA / "codes.json").read_text())


def test_several_codes_a_vector() -> None:
    prior = fitted_prior((9, 2, 14), (3, 5))
    codes = smooth_codes(2, (3, 5), (9, 2, 14), seed=4)
    for image, stream in zip(codes, encode_pieces(codes, prior.code_sizes, prior), strict=True):
        assert np.array_equal(read_stream(stream, prior), image)
