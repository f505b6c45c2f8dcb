"""Codes files of version 1: those that were made to deceive, by right checksums, are reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_cli.codec.container import CodesFile
from squeeze_cli.codec.prior_files import read_prior
from squeeze_cli.errors import DamagedCodesError, SqueezeError
from tests.codec.make_example import DATA
from tests.fuzz.crafted import craft_v1, pack_names, parts

CONTENT = (DATA / "codes.safetensors").read_bytes()
PRIOR = read_prior(DATA / "prior.safetensors")
NAMES = [f"cat_{number}" for number in range(7)]


def fails(path: Path, content: bytes, says: str = "is damaged, or not a codes file") -> None:
    path.write_bytes(content)
    with pytest.raises(SqueezeError) as raised:
        CodesFile(path, PRIOR).require_run("0123456789abcdef").require_relative_names().read()
    assert says in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_crafted_without_a_change_is_read(tmp_path: Path) -> None:
    (tmp_path / "codes").write_bytes(craft_v1(CONTENT, {}, names=pack_names(*NAMES)))
    assert CodesFile(tmp_path / "codes", PRIOR).names == tuple(NAMES)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"grid": "[5,3]"}, "a prior for others"),
        ({"grid": "[1000000,1000000]"}, "invalid"),
        ({"grid": f"[{2**62},1]"}, "invalid"),
        ({"grid": "[-3,-5]"}, "invalid"),
        ({"grid": "[3.0,5.0]"}, "invalid"),
        ({"grid": '["3","5"]'}, "invalid"),
        ({"grid": "[3,5,1]"}, "invalid"),
        ({"grid": "[" * 5000 + "]" * 5000}, "invalid"),
        ({"grid": None}, "invalid"),
        ({"code_sizes": "[8]"}, "make it again"),
        ({"code_sizes": "[38]"}, "make it again"),
        ({"code_sizes": f"[{2**63}]"}, "invalid"),
        ({"code_sizes": "[0]"}, "invalid"),
        ({"code_sizes": "[true]"}, "invalid"),
        ({"code_sizes": "[]"}, "invalid"),
        ({"code_sizes": f"[{'37,' * 999_999}37]"}, "invalid"),
        ({"code_sizes": f"[{'37,' * 999}37]"}, "make it again"),
        ({"run": "fedcba9876543210"}, "another run"),
        ({"run": ""}, "unnamed"),
        ({"prior": "00000000"}, "another prior"),
        ({"coding": "packed", "prior": None}, "make it again"),
        ({"coding": "zip"}, "invalid"),
        ({"format": "safetensors"}, "not squeeze-codes, version 1"),
        ({"version": "-1"}, "not squeeze-codes, version 1"),
        ({"version": "0"}, "not squeeze-codes, version 1"),
        ({"version": "1e9"}, "not squeeze-codes, version 1"),
        ({"version": " 1"}, "not squeeze-codes, version 1"),
        ({"version": None}, "not squeeze-codes, version 1"),
        ({"version": "1" * 5000}, "not squeeze-codes, version 1"),
        ({"version": "2"}, "not squeeze-codes, version 1"),
    ],
)
def test_metadata(tmp_path: Path, metadata: dict[str, str | None], says: str) -> None:
    fails(tmp_path / "codes", craft_v1(CONTENT, metadata), says)


@pytest.mark.parametrize(
    "names",
    [
        ("",),
        (".",),
        ("..",),
        ("/abs",),
        ("a/../../b",),
        ("a/./b",),
        ("a/",),
        ("a", "a"),
        ("\udcff",),
    ],
)
def test_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    others = map(str, range(7 - len(names)))
    fails(tmp_path / "codes", craft_v1(CONTENT, {}, names=pack_names(*names, *others)), "codes")


@pytest.mark.parametrize(
    "tensors",
    [
        {"names": pack_names(*"abcdef")},
        {"names": pack_names(*"abcdefgh")},
        {"names": np.frombuffer(b"\xed\xc1\x01\x01" * 2**18, np.uint8)},
        {"names": np.full(9, 255, np.uint8)},
        {"names": lambda old: np.append(old, np.uint8(0))},
        {"lengths": lambda old: old.astype("<u8") + np.uint64(2**63) * (np.arange(7) < 2)},
        {"lengths": np.full(7, 2**32 - 1, "<u4")},
        {"lengths": lambda old: old.astype("<i8") - 10**9},
        {"lengths": lambda old: old.astype("<f4")},
        {"lengths": lambda old: old.reshape(7, 1)},
        {"lengths": lambda old: old + np.asarray([1, 255, *[0] * 5], np.uint8)},
        {"lengths": None},
        {"payload": None},
        {"extra": np.zeros(3, np.uint8)},
        {"payload": lambda old: old.view(np.int8)},
        {"payload": np.zeros_like},
        {"crc32": np.asarray([7], "<u4")},
        {"crc32": np.asarray([7, 7], "<u4")},
    ],
)
def test_tensors(tmp_path: Path, tensors: dict[str, Any]) -> None:
    own = parts(CONTENT)[1]
    changed = {
        n: value(own[n]) if isinstance(value, Callable) else value for n, value in tensors.items()
    }
    fails(tmp_path / "codes", craft_v1(CONTENT, {}, **changed))


def test_a_file_without_images_has_none(tmp_path: Path) -> None:
    nothing = np.zeros(0, np.uint8)
    content = craft_v1(CONTENT, {}, lengths=nothing, names=pack_names(), payload=nothing)
    (tmp_path / "codes").write_bytes(content)
    assert CodesFile(tmp_path / "codes", PRIOR).read().shape == (0, 3, 5, 1)


def test_a_number_that_is_none_is_reported(tmp_path: Path) -> None:
    header = b'{"__metadata__":{},"payload":{"dtype":"U8","shape":[1],"data_offsets":[0,1e999]}}'
    fails(tmp_path / "codes", len(header).to_bytes(8, "little") + header + b"0")


def test_a_damaged_byte_anywhere_is_reported(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "codes"
    for at in range(len(CONTENT)):
        damaged = bytearray(CONTENT)
        damaged[at] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        with pytest.raises(SqueezeError):
            CodesFile(path, PRIOR).read()


def test_truncated_and_longer_files_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "codes"
    for content in (*(CONTENT[:length] for length in range(len(CONTENT))), CONTENT + b"\0"):
        path.write_bytes(content)
        with pytest.raises(DamagedCodesError, match="make it again"):
            CodesFile(path, PRIOR)
