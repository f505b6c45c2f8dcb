from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from squeeze_cli.codec.container import (
    CodesFile,
    compress_names,
    decompress_names,
    encode_codes,
)
from squeeze_cli.errors import DamagedCodesError, SqueezeError

NAMES = ("Abyssinian_1", "Abyssinian_12", "cats/tom", "ñandú", "Bengal_7")


def make(n: int = 5, grid: tuple[int, int] = (3, 4), sizes: tuple[int, ...] = (10, 300)) -> tuple:
    codes = np.random.default_rng(7).integers(0, sizes, (n, *grid, len(sizes)))
    content = encode_codes(codes, NAMES[:n], quantizer="rvq", code_sizes=sizes, run="0123abcd")
    return codes, content


@pytest.mark.parametrize("n", [0, 1, 5])
def test_round_trip_and_header(tmp_path: Path, n: int) -> None:
    codes, content = make(n)
    (tmp_path / "codes.safetensors").write_bytes(content)
    file = CodesFile(tmp_path / "codes.safetensors").require_run("0123abcd")
    assert np.array_equal(file.read(), codes)
    assert file.names == NAMES[:n]
    assert (file.header.grid, file.header.code_sizes) == ((3, 4), (10, 300))
    assert (file.header.quantizer, file.header.coding) == ("rvq", "packed")
    assert file.path.read_bytes() == content


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    n=st.integers(0, 4),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 6)),
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_codes_come_back(
    tmp_path: Path, n: int, grid: tuple[int, int], sizes: list[int], seed: int
) -> None:
    codes = np.random.default_rng(seed).integers(0, sizes, (n, *grid, len(sizes)))
    path = tmp_path / "codes.safetensors"
    names = [str(i) for i in range(n)]
    path.write_bytes(encode_codes(codes, names, quantizer="vq", code_sizes=sizes))
    assert np.array_equal(CodesFile(path).read(), codes)


def test_single_images_and_batches(tmp_path: Path) -> None:
    codes, content = make()
    (tmp_path / "codes.safetensors").write_bytes(content)
    file = CodesFile(tmp_path / "codes.safetensors")
    assert np.array_equal(file.read([3, 1]), codes[[3, 1]])
    batches = list(file.batches(images=2))
    assert [names for names, _ in batches] == [NAMES[:2], NAMES[2:4], NAMES[4:]]
    assert np.array_equal(np.concatenate([part for _, part in batches]), codes)


def test_the_safetensors_library_opens_it(tmp_path: Path) -> None:
    _, content = make()
    (tmp_path / "codes.safetensors").write_bytes(content)
    with safe_open(tmp_path / "codes.safetensors", "np") as file:
        assert file.metadata()["code_sizes"] == "[10,300]"
        assert file.get_tensor("lengths").sum() == len(file.get_tensor("payload"))
        assert decompress_names(file.get_tensor("names").tobytes(), 5) == NAMES


def test_a_damaged_byte_anywhere_is_reported(tmp_path: Path) -> None:
    _, content = make()
    path = tmp_path / "codes.safetensors"
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


def test_a_number_that_is_none_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "codes.safetensors"
    header = b'{"__metadata__":{},"payload":{"dtype":"U8","shape":[1],"data_offsets":[0,1e999]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    with pytest.raises(DamagedCodesError):
        CodesFile(path, None)


def test_truncated_or_longer_files_are_reported(tmp_path: Path) -> None:
    _, content = make()
    path = tmp_path / "codes.safetensors"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedCodesError, match="make it again"):
            CodesFile(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(DamagedCodesError, match="longer"):
        CodesFile(path)


def test_other_runs_newer_versions_and_missing_files_are_refused(tmp_path: Path) -> None:
    _, content = make()
    path = tmp_path / "codes.safetensors"
    path.write_bytes(content)
    with pytest.raises(SqueezeError, match="another run"):
        CodesFile(path).require_run("ffff")
    path.write_bytes(content.replace(b'"version":"1"', b'"version":"2"'))
    with pytest.raises(SqueezeError, match="update squeeze"):
        CodesFile(path)
    with pytest.raises(SqueezeError, match="cannot be read"):
        CodesFile(tmp_path / "none")


def test_contradicting_arguments_are_refused() -> None:
    codes, _ = make()
    with pytest.raises(ValueError, match="names"):
        encode_codes(codes, NAMES[:2], quantizer="rvq", code_sizes=(10, 300))
    with pytest.raises(ValueError, match="outside"):
        encode_codes(codes, NAMES, quantizer="rvq", code_sizes=(10, 20))


@given(st.lists(st.text(st.characters(blacklist_characters="\0", codec="utf-8"), max_size=9)))
def test_names_come_back(names: list[str]) -> None:
    assert decompress_names(compress_names(names), len(names)) == tuple(names)


def test_names_with_zero_bytes_or_of_another_count_are_refused() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        compress_names(["a\0b"])
    with pytest.raises(DamagedCodesError, match="2 names for 3"):
        decompress_names(compress_names(["a", "b"]), 3)
