from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from squeeze_cli.codec.container import CodesFile, encode_codes
from squeeze_cli.codec.index import find_blocks, restore_names, shorten_names
from squeeze_cli.errors import DamagedCodesError, SqueezeError

NAMES = ("Abyssinian_1", "Abyssinian_12", "cats/tom", "ñandú", "Bengal_7")
# Of 100 vectors, 40 images make a block.
LARGE_GRID = (10, 10)


def make(n: int = 5, grid: tuple[int, int] = (3, 4), sizes: tuple[int, ...] = (10, 300)) -> tuple:
    codes = np.random.default_rng(7).integers(0, sizes, (n, *grid, len(sizes)))
    names = NAMES[:n] if n <= len(NAMES) else [f"img_{i}" for i in range(n)]
    content = encode_codes(codes, names, quantizer="rvq", code_sizes=sizes, run="0123abcd")
    return codes, content


@pytest.mark.parametrize("n", [0, 1, 5])
def test_round_trip_and_header(tmp_path: Path, n: int) -> None:
    codes, content = make(n)
    (tmp_path / "codes.sqz").write_bytes(content)
    file = CodesFile(tmp_path / "codes.sqz").require_run("0123abcd")
    assert np.array_equal(file.read(), codes)
    assert file.names == NAMES[:n]
    assert (file.header.grid, file.header.code_sizes) == ((3, 4), (10, 300))
    assert (file.header.quantizer, file.header.coding) == ("rvq", "packed")
    assert file.path.read_bytes() == content


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    n=st.integers(0, 4),
    grid=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_codes_come_back(
    tmp_path: Path, n: int, grid: tuple[int, int], sizes: list[int], seed: int
) -> None:
    codes = np.random.default_rng(seed).integers(0, sizes, (n, *grid, len(sizes)))
    path = tmp_path / "codes.sqz"
    names = [str(i) for i in range(n)]
    path.write_bytes(encode_codes(codes, names, quantizer="vq", code_sizes=sizes))
    assert np.array_equal(CodesFile(path).read(), codes)


def test_single_images_and_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes, content = make(130, LARGE_GRID)
    (tmp_path / "codes.sqz").write_bytes(content)
    file = CodesFile(tmp_path / "codes.sqz")
    assert file.header.block_images == [40, 40, 40, 10]
    chosen = [129, 3, 41, 3, 0, -1]
    for at_once in (256, 3, 1):  # blocks
        monkeypatch.setattr("squeeze_cli.codec.container._BLOCKS_AT_ONCE", at_once)
        assert np.array_equal(file.read(chosen), codes[chosen])
        assert np.array_equal(file.read(slice(100, 10, -7)), codes[100:10:-7])
        assert file.read([]).shape == (0, *LARGE_GRID, 2)
        for images in (1, 7, 64, 1000):
            names, parts = zip(*file.batches(images), strict=True)
            assert tuple(name for part in names for name in part) == file.names
            assert [len(part) for part in names] == [len(part) for part in parts]
            assert max(map(len, parts)) <= images
            assert np.array_equal(np.concatenate(parts), codes)
    with pytest.raises(IndexError):
        file.read([130])


def test_one_image_is_read_where_other_blocks_are_damaged(tmp_path: Path) -> None:
    codes, content = make(130, LARGE_GRID)
    (tmp_path / "codes.sqz").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    file = CodesFile(tmp_path / "codes.sqz")
    assert np.array_equal(file.read([119, 5]), codes[[119, 5]])
    with pytest.raises(DamagedCodesError, match="make it again"):
        file.read([120])


def test_blocks_of_another_place_or_file_are_reported(tmp_path: Path) -> None:
    """Blocks of equal size whose own bytes are whole."""
    codes, content = make(80, LARGE_GRID)
    names = [f"dog_{i}" for i in range(80)]
    other = encode_codes(codes, names, quantizer="rvq", code_sizes=(10, 300), run="0123abcd")
    path = tmp_path / "codes.sqz"
    (_, begin), (_, other_begin) = find_blocks(content), find_blocks(other)
    size = (len(content) - begin) // 2
    first, second = content[begin : begin + size], content[begin + size :]
    assert first[:-4] == other[other_begin:][: size - 4]  # all but the CRC-32
    for blocks in (second + first, first + first, other[other_begin:]):
        path.write_bytes(content[:begin] + blocks)
        with pytest.raises(DamagedCodesError, match="CRC-32 of a block"):
            CodesFile(path).read()
    path.write_bytes(content[:begin] + first + second)
    assert np.array_equal(CodesFile(path).read(), codes)


def test_a_damaged_byte_anywhere_is_reported(tmp_path: Path) -> None:
    _, content = make()
    path = tmp_path / "codes.sqz"
    random = np.random.default_rng(0)
    flips = [(at, 1 << bit) for at in range(len(content)) for bit in range(8)]
    flips += [
        (int(random.integers(len(content))), int(random.integers(1, 256))) for _ in range(999)
    ]
    for at, flip in flips:
        damaged = bytearray(content)
        damaged[at] ^= flip
        path.write_bytes(damaged)
        with pytest.raises(SqueezeError):
            CodesFile(path).read()


def test_truncated_or_longer_files_are_reported(tmp_path: Path) -> None:
    _, content = make()
    path = tmp_path / "codes.sqz"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedCodesError, match="make it again"):
            CodesFile(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(DamagedCodesError, match="lengths"):
        CodesFile(path)


def test_files_that_change_while_they_are_open_are_reported(tmp_path: Path) -> None:
    _, content = make()
    path = tmp_path / "codes.sqz"
    path.write_bytes(content)
    file = CodesFile(path)
    path.write_bytes(content[:-3])
    with pytest.raises(DamagedCodesError, match="make it again"):
        file.read()
    path.unlink()
    with pytest.raises(SqueezeError, match="cannot be read"):
        file.read()


def test_other_runs_newer_versions_and_missing_files_are_refused(tmp_path: Path) -> None:
    _, content = make()
    path = tmp_path / "codes.sqz"
    path.write_bytes(content)
    with pytest.raises(SqueezeError, match="another run"):
        CodesFile(path).require_run("ffff")
    path.write_bytes(content[:4] + b"\3" + content[5:])
    with pytest.raises(SqueezeError, match="version 3: update squeeze"):
        CodesFile(path)
    with pytest.raises(SqueezeError, match="cannot be read"):
        CodesFile(tmp_path / "none")


def test_contradicting_arguments_are_refused() -> None:
    codes, _ = make()
    with pytest.raises(ValueError, match="names"):
        encode_codes(codes, NAMES[:2], quantizer="rvq", code_sizes=(10, 300))
    with pytest.raises(ValueError, match="outside"):
        encode_codes(codes, NAMES, quantizer="rvq", code_sizes=(10, 20))


# --- names ----------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(blacklist_characters="\0", codec="utf-8"), min_size=1, max_size=9)
_NUMBERED = st.tuples(
    st.sampled_from(["", "a", "b/", "0", "9_"]),
    st.integers(0, 3) | st.integers(0, 10**19),
    st.integers(0, 20),
).map(lambda parts: f"{parts[0]}{parts[1]:0{parts[2]}d}")


@given(st.lists(_TEXT | _NUMBERED, unique=True))
def test_names_come_back(names: list[str]) -> None:
    assert restore_names(shorten_names(names)) == tuple(names)


@pytest.mark.parametrize(
    "names",
    [
        ["x" * 240, "x" * 239 + "y", "x" * 240 + "0", "x" * 240 + "1"],
        ["a b", " a", "a ", "\n", "\t", "é1", "é2", "٣", "٤"],
        ["7", "8", "08", "09", "9", "10", "0", "00", "01", "1", "9" * 15, "1" + "0" * 15, "9" * 16],
        ["a", "a1", "a0", "a00", "a000000000000000", "a0000000000000001", "a1000000000000001"],
        ["-1", "-2", "--3", "1-", "2-", "1/2", "1/3", "2/3", "2/", "img_9.jpg", "img_10.jpg"],
        ['"', "\\", "[1]", "{}", "null", "1", "\x1f", "\x7f", "\u2028"],
    ],
)
def test_unusual_names_come_back(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "codes.sqz"
    for order in (names, names[::-1]):
        codes = np.zeros((len(order), 1, 2, 1), np.int32)
        path.write_bytes(encode_codes(codes, order, quantizer="vq", code_sizes=(3,)))
        assert CodesFile(path).names == tuple(order)


def test_names_that_count_on_are_numbers() -> None:
    for names, step in (
        ([f"img_{i:05d}" for i in range(2000)], 1),
        ([f"cat_{i}" for i in range(9000, 12000, 3)], 3),
        ([f"a/{i}" for i in range(900, 0, -1)], -1),
    ):
        assert shorten_names(names) == [names[0], *[step] * (len(names) - 1)]


@pytest.mark.parametrize("names", [["a\0b"], [""], ["a", "a"], ["\ud800"], ["a\udcff"]])
def test_names_that_no_file_has_are_refused(names: list[str]) -> None:
    codes = np.zeros((len(names), 1, 2, 1), np.int32)
    with pytest.raises(ValueError, match=r"a name|surrogates"):
        encode_codes(codes, names, quantizer="vq", code_sizes=(3,))


@pytest.mark.parametrize("entries", [[1], ["a", 1], ["a1", -2], ["a1", 0], ["a2", "a1", 1]])
def test_steps_that_lead_to_no_name_or_to_one_twice_are_refused(entries: list[str | int]) -> None:
    with pytest.raises(ValueError, match="a name"):
        restore_names(entries)
