"""A reader written from docs/codes-format.md alone, with Python's integers, reads what ours wrote."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from squeeze_cli.codec.coefficient_prior import CoefficientPrior, fit_coefficients
from squeeze_cli.codec.container import encode_codes
from squeeze_cli.codec.prior import CodePrior
from squeeze_cli.codec.prior_files import read_prior
from tests.codec.make_example import DATA
from tests.codec.priors import (
    fitted_prior,
    reference_frequencies,
    reference_slots,
    smooth_codes,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "codes-format.md"


def documented_dictionary() -> bytes:
    """The block of text below the heading on the dictionary; a line feed stands between its lines."""
    section = DOCUMENT.read_text(encoding="utf-8").split("### The dictionary")[1]
    return section.split("```")[1].strip("\n").encode()


def read_names(entries: list[str | int]) -> list[str]:
    names: list[str] = []
    for entry in entries:
        if isinstance(entry, int):
            before, digits = names[-1], 0
            while digits < 15 and before[len(before) - digits - 1 :][:1] in tuple("0123456789"):
                digits += 1
            text, number = before[: len(before) - digits], before[len(before) - digits :]
            changed = str(int(number) + entry)
            entry = text + (changed.rjust(digits, "0") if number[0] == "0" else changed)
        names.append(entry)
    return names


def read_file(
    content: bytes, prior: CodePrior | CoefficientPrior | None
) -> tuple[dict, list[str], list[np.ndarray]]:
    """The header, the names and the codes `[h, w, Q]` of each image."""
    assert content[:5] == b"SQZC\2"
    at = 9 + int.from_bytes(content[5:9], "little")
    assert int.from_bytes(content[at : at + 4], "little") == zlib.crc32(content[:at])
    index = zlib.decompressobj(-15, zdict=documented_dictionary()).decompress(content[9:at])
    line, lengths = index.split(b"\n")
    header = json.loads(line.decode())
    at += 4
    images: list[np.ndarray] = []
    for number, length in enumerate(json.loads(lengths)):
        count = min(header["images_per_block"], len(header["names"]) - len(images))
        block = content[at : at + length]
        at += length
        if prior is None:
            codes, crc32 = read_packed(block, header, count)
        elif isinstance(prior, CoefficientPrior):
            codes, crc32 = read_coefficients(prior, block, header, count)
        else:
            codes, crc32 = read_stream(prior, block, header, count)
        checked = line + b"\n" + number.to_bytes(4, "little") + codes.astype("<u4").tobytes()
        assert crc32 == zlib.crc32(checked)
        images += list(codes)
    assert (at, len(images)) == (len(content), len(header["names"]))
    return header, read_names(header["names"]), images


class Stream:
    """Reader of the symbols of a stream."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 5
        self.state = int.from_bytes(content[:5], "big")

    def read(self, slots: np.ndarray) -> int:
        starts = np.cumsum(slots) - slots
        slot = self.state % 2**20
        value = int(np.flatnonzero(starts <= slot)[-1])
        self.state = int(slots[value]) * (self.state >> 20) + slot - int(starts[value])
        while self.state < 2**32:
            self.state, self.at = 256 * self.state + self.content[self.at], self.at + 1
        return value

    def end(self) -> int:
        assert self.at == len(self.content)
        return self.state - 2**32


def read_stream(
    prior: CodePrior, stream: bytes, header: dict, count: int
) -> tuple[np.ndarray, int]:
    given = len(header["code_sizes"])
    images = np.zeros((count, *header["grid"], len(prior.code_sizes)), np.int64)
    images[..., given:] = prior.code_sizes[given:]
    symbols = Stream(stream)
    for codes in images:
        seen = [np.zeros(size, np.int64) for size in header["code_sizes"]]
        for row, column in np.ndindex(*header["grid"]):
            for q in range(len(seen)):
                slots = reference_frequencies(prior, q, (row, column), codes, seen[q])
                code = symbols.read(slots)
                codes[row, column, q] = code
                seen[q][code] += 1
    return images[..., :given], symbols.end()


def read_coefficients(
    prior: CoefficientPrior, stream: bytes, header: dict, count: int
) -> tuple[np.ndarray, int]:
    size, symbols = header["code_sizes"][0], Stream(stream)
    images = np.full((count, *header["grid"], len(header["code_sizes"])), (size - 1) // 2)
    magnitude = np.abs(np.arange(size) - (size - 1) // 2)

    def read(steps: np.ndarray) -> int:
        return symbols.read(reference_slots(steps))

    def steps_of(zero: int, decay: int) -> np.ndarray:
        return np.where(magnitude == 0, 0, zero + (magnitude - 1) * decay)

    flag, rest_zero, rest_decay = map(int, prior.rest)
    for codes in images:
        used = np.argwhere(prior.used).tolist()
        for place, zero, decay in zip(used, prior.zero.tolist(), prior.decay.tolist(), strict=True):
            codes[tuple(place)] = read(steps_of(zero, decay))
        flagged = []
        for frequency in np.ndindex(*header["grid"]):
            if not prior.used[frequency].all() and read(np.array([0, flag])):
                flagged.append(frequency)
        for frequency in flagged:
            for axis in np.flatnonzero(prior.used[frequency] == 0):
                codes[(*frequency, axis)] = read(steps_of(rest_zero, rest_decay))
    return images, symbols.end()


def read_packed(block: bytes, header: dict, count: int) -> tuple[np.ndarray, int]:
    """Codes of sizes whose product is below 2^63."""
    sizes = header["code_sizes"]
    product = int(np.prod(sizes, dtype=object))
    fits = [g for g in range(1, 64) if product**g < 2**63]
    in_word = min(fits, key=lambda g: ((product**g - 1).bit_length() / g, g))
    bits = (product**in_word - 1).bit_length()
    shape = (count, *header["grid"], len(sizes))
    vectors = int(np.prod(shape[:3]))
    text = "".join(f"{byte:08b}" for byte in block[:-4])
    digits: list[int] = []
    for word in range(-(-vectors // in_word)):
        value = int(text[word * bits : (word + 1) * bits] or "0", 2)
        for size in sizes * in_word:
            digits.append(value % size)
            value //= size
    codes = np.asarray(digits[: vectors * len(sizes)]).reshape(shape)
    return codes, int.from_bytes(block[-4:], "little")


def test_the_committed_file() -> None:
    prior = read_prior(DATA / "prior.safetensors")
    header, names, images = read_file((DATA / "codes.sqz").read_bytes(), prior)
    assert (header["coding"], header["prior"]) == ("prior", prior.digest)
    assert names == [f"cat_{number}" for number in range(7)]
    wanted = json.loads((DATA / "codes.json").read_text())
    assert [image[..., 0].tolist() for image in images] == wanted


NAMES = [
    "a/b",
    "x_008",
    "x_009",
    "x_010",
    "x_7",
    "x_12",
    "é0" + "9" * 15,
    "é1" + "0" * 15,
]


@pytest.mark.parametrize("coding", ["prior", "packed"])
@pytest.mark.parametrize("sizes", [(9, 2, 14), (5,)])
def test_several_blocks_and_codes_per_vector(
    coding: str, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("squeeze_cli.codec.index.BLOCK_VECTORS", 4 * 15)
    prior = fitted_prior(sizes, (3, 5)) if coding == "prior" else None
    codes = smooth_codes(len(NAMES), (3, 5), sizes, seed=4)
    content = encode_codes(codes, NAMES, quantizer="rvq", code_sizes=sizes, run="ab", prior=prior)
    header, names, images = read_file(content, prior)
    assert (header["coding"], header["images_per_block"], names) == (coding, 4, NAMES)
    assert np.array_equal(images, codes)


@pytest.mark.parametrize("given", [1, 2])
def test_the_first_codes_of_vectors(given: int) -> None:
    """A file with fewer codes per vector than its prior has."""
    sizes = (9, 2, 14)
    prior, codes = fitted_prior(sizes, (3, 5)), smooth_codes(8, (3, 5), sizes, seed=4)[..., :given]
    content = encode_codes(codes, NAMES, quantizer="rvq", code_sizes=sizes[:given], prior=prior)
    assert np.array_equal(read_file(content, prior)[2], codes)


def test_coefficients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some were used in training, and some others are used by the images of the file."""
    monkeypatch.setattr("squeeze_cli.codec.index.BLOCK_VECTORS", 4 * 15)
    drawn = np.rint(np.random.default_rng(0).laplace(0, 1, (30, 3, 5, 4))).astype(np.int64)
    falling = drawn // (1 + np.add.outer(np.arange(3), np.arange(5)))[:, :, None] + 7
    codes = np.clip(falling, 0, 14)
    codes[:, 0, 0] = np.clip(drawn[:, 0, 0] * 3 + 7, 0, 14)
    train = codes[:20].copy()
    train[:, 2, 2:] = 7
    train[:, 1, 1, 1] = 7
    prior = fit_coefficients(train, 15)
    test = codes[20:28].copy()
    test[1, 2, 4, 3], test[6, 2, 4], test[3, 2, 3, 0] = 1, 9, 14
    content = encode_codes(test, NAMES, quantizer="dct", code_sizes=prior.code_sizes, prior=prior)
    assert 0 < prior.used.sum() < prior.used.size
    assert np.array_equal(read_file(content, prior)[2], test)
