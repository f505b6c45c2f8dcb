"""Cases of codes files and priors that were made to deceive: their checksums are right."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.cases.table import Case
from tests.fuzz.crafted import (
    bomb,
    craft,
    craft_prior,
    deflate,
    parts,
    take_apart,
)

CODES = "codes/codes-00000.sqz"
_DECODE = f"decode {CODES} --run runs/vq --to masks --out m"
_USES = ("codes", "runs/vq")
_DAMAGED = "is damaged, or not a codes file"


def crafted(**changes: Any) -> Callable[[Path], object]:
    """Make a function that changes the codes file; a part may be a function of the old one."""

    def make(folder: Path) -> None:
        content = (folder / CODES).read_bytes()
        own = take_apart(content)
        changed = {n: v(getattr(own, n)) if callable(v) else v for n, v in changes.items()}
        (folder / CODES).write_bytes(craft(content, **changed))

    return make


def nothing_outside(folder: Path) -> None:
    """Check that no mask was written, wherever."""
    assert not (folder / "m").exists() or not list((folder / "m").rglob("*"))
    assert not list(folder.parent.glob("*.png"))
    assert not list(folder.glob("*.png"))


def codes(name: str, *says: str, **changes: Any) -> Case:
    """Return the case of a codes file with these parts."""
    return Case(
        name, _DECODE, 1, says or (_DAMAGED,), uses=_USES, make=crafted(**changes),
        check=nothing_outside,
    )  # fmt: skip


def header(name: str, *says: str, **fields: Any) -> Case:
    """Return the case of a codes file with these fields in its header."""
    return codes(name, *says, header=fields)


def named(name: str, *names: str) -> Case:
    """Return the case of a codes file whose first images have these names."""
    others = (str(number) for number in range(12 - len(names)))
    return header(name, "codes-00000.sqz", names=[*names, *others])


def prior(name: str, says: str = "prior.safetensors is damaged", **tensors: Any) -> Case:
    """Return the case of a prior with these tensors."""

    def make(folder: Path) -> None:
        file = folder / "runs/vq/prior.safetensors"
        _, own = parts(file.read_bytes())
        changed = {
            n: value(own[n.replace("_", ".", 1).removeprefix("q")]) if callable(value) else value
            for n, value in tensors.items()
        }
        file.write_bytes(craft_prior(file.read_bytes(), **changed))

    return Case(name, _DECODE, 1, (says,), uses=_USES, make=make)


def shortened(file: str, size: int) -> Callable[[Path], object]:
    """Make a function that cuts a file off."""
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size])


def with_file(name: str) -> Callable[[Path], object]:
    """Make a function that puts a file where the folder of a mask should be."""

    def make(folder: Path) -> None:
        crafted(header={"names": [f"{name}/x", *"abcdefghijk"]})(folder)
        (folder / "m").mkdir()
        if name == "photo":
            (folder / "m" / name).touch()

    return make


ROWS = (
    Case("codes as they are", _DECODE, uses=_USES, writes=("m",)),
    header("a grid of as many vectors", "codes of vq on 2 x 8", grid=[2, 8]),
    header("a grid of other sides", "codes of vq on 1 x 16", grid=[1, 16]),
    header("a grid of 10^12 vectors", grid=[10**6, 10**6]),
    header("a grid of 2^62 rows", grid=[2**62, 1]),
    header("a grid of 2^70 rows", grid=[2**70, 1]),
    header("no rows", "on 0 x 4", grid=[0, 4]),
    header("a grid below zero", grid=[-4, -4]),
    header("a grid of fractions", grid=[4.0, 4.0]),
    header("a grid of texts", grid=["4", "4"]),
    header("a grid of three sides", grid=[4, 4, 1]),
    header("a grid that is no list", grid=16),
    header("a grid that is missing", grid=...),
    header("codes of 8 values", "make it again", code_sizes=[8]),
    header("codes of one value more", "make it again", code_sizes=[513]),
    header("codes of 2^63 values", code_sizes=[2**63]),
    header("codes of no values", code_sizes=[0]),
    header("codes of true values", code_sizes=[True]),
    header("no codes per vector", code_sizes=[]),
    header("two codes per vector", "make it again", code_sizes=[512, 512]),
    header("a million codes per vector", code_sizes=[512] * 10**6),
    header("a thousand codes per vector", "make it again", code_sizes=[512] * 1000),
    header("the quantizer of another run", "codes of fsq", quantizer="fsq"),
    header("another run", "another run", run="0123456789abcdef"),
    header("no run", "unnamed", run=""),
    header("a run that is a number", run=7),
    header("another prior", "another prior", prior="00000000"),
    header("codes that were never packed", coding="packed", prior=""),
    header("an unknown coding", coding="zip"),
    header("a field too many", colour="red"),
    header("blocks of no images", images_per_block=0),
    header("blocks of one image", images_per_block=1),
    header("blocks of 11 images", images_per_block=11),
    header("blocks of 13 images", "CRC-32", images_per_block=13),
    header("blocks of 4,096 vectors", "CRC-32", images_per_block=256),
    header("blocks of more vectors", images_per_block=257),
    header("blocks of 2^40 images", images_per_block=2**40),
    header("blocks of true images", images_per_block=True),
    codes("a header in deep brackets", line=b"[" * 50_000 + b"]" * 50_000),
    codes("a header that is no object", line=b"12"),
    codes("a header that is no JSON", line=b"{"),
    codes("a header that is no text", line=b"{\xff}"),
    codes("an empty header", line=b""),
    codes("a header of numbers that are none", line=b'{"names":[NaN],"grid":[Infinity,1e999]}'),
    codes("a header of 5,000 digits", line=b'{"grid":[' + b"1" * 5000 + b"]}"),
    codes("a header alone", compressed=deflate(b"{" * 999)),
    codes("an index of nothing", compressed=deflate(b"")),
    codes("no index", compressed=b""),
    codes("another magic", magic=b"sqzc\2"),
    *(codes(f"version {version}", magic=b"SQZC" + bytes([version])) for version in (0, 1)),
    *(codes(f"version {version}", f"version {version}: update squeeze",
            magic=b"SQZC" + bytes([version])) for version in (3, 255)),
    named("the empty name", ""),
    named("the name of the folder", "."),
    named("the name of the folder above", ".."),
    named("an absolute name", "/abs"),
    named("a name that leaves the folder", "a/../../b"),
    named("a name that goes through the folder", "a/./b"),
    named("a name that ends in a slash", "a/"),
    named("one name twice", "a", "a"),
    named("half a surrogate", "\ud800"),
    named("a name that UTF-8 writes in another way", "\udcc3\udca9", "é"),
    Case("a name that is no UTF-8", "decode codes/codes-00000.sqz --run runs/vq --to features --out m", 1,
         (_DAMAGED,), uses=_USES, check=nothing_outside,
         make=crafted(header={"names": ["a\udcff", *"bcdefghijkl"]})),
    *(Case(f"a mask below the file {name}", _DECODE, 2, (f"below m/{name}, which is a file",), uses=_USES,
           make=with_file(name), check=lambda folder: _only_file(folder / "m"))
      for name in ("classes.yaml", ".lock", "photo")),
    named("a name with a zero byte", "a\0b"),
    header("names that are missing", names=...),
    header("names that are no list", names="abcdefghijkl"),
    header("a name that is a list", names=[*"abcdefghijk", ["l"]]),
    header("a name that is true", names=[*"abcdefghijk", True]),
    header("a step of 0", names=["a1", 0, *"bcdefghijk"]),
    header("steps to one name twice", names=["a2", "a1", 1, *"bcdefghij"]),
    header("a step below zero", names=["a1", -2, *"bcdefghijk"]),
    header("a step from no number", names=["a", 1, *"bcdefghijk"]),
    header("a step from no name", names=[1, *"abcdefghijk"]),
    header("a step of 4,000 digits", "CRC-32", names=["a1", 10**4000, *"bcdefghijk"]),
    header("a step of a fraction", names=["a1", 1.0, *"bcdefghijk"]),
    header("one name too few", names=[*"abcdefghijk"]),
    header("one name too many", names=[*"abcdefghijklm"]),
    header("a million names", names=["0", *[1] * (10**6 - 1)]),
    header("names of 1 GB", names=["x" * 10**6 + "1", *[1] * 1000]),
    header("no names", names=[]),
    codes("an index of 1 GB", compressed=bomb(2**30)),
    codes("an index that is no deflate", compressed=b"\xff" * 9),
    codes("an index of another dictionary", dictionary=b"another" * 20),
    codes("an index and more", compressed=deflate(b"{}\n[]") + b"\0"),
    codes("an index of 2^32 - 1 bytes", size=2**32 - 1),
    codes("an index of as many bytes as the file has", size=300),
    codes("an index of less", size=9),
    *(codes(f"lengths {name}", lengths=lengths) for name, lengths in {
        "that are missing": [], "of one block more": [300, 0], "beyond the file": [2**40],
        "below zero": [-1], "of fractions": [1.5], "of texts": ["9"], "of true values": [True],
        "that are no list": 300, "of 2^70": [2**70], "in lists": [[300]], "of nothing": [None],
    }.items()),
    codes("a byte less", lengths=lambda old: [old[0] - 1]),
    codes("a byte that the lengths do not have", blocks=lambda old: old + b"\0"),
    codes("no images", "has no images", header={"names": []}, lengths=[], blocks=b""),
    codes("no blocks", blocks=b""),
    codes("a block of zeros", blocks=lambda old: bytes(len(old))),
    codes("a block of less than its state", lengths=[4], blocks=b"\1\1\1\1"),
    codes("a block of nothing", lengths=[0], blocks=b""),
    header("other names for the same codes", "CRC-32", names=[*"abcdefghijkl"]),
    codes("the checksum of another file", crc32=7),
    *(Case(f"a codes file of {size} bytes", _DECODE, 1, (_DAMAGED,), uses=_USES,
           make=shortened(CODES, size)) for size in (0, 3, 4, 5, 8, 9, 12, 40, 100)),
    Case("a FIFO for a codes file", "decode fifo --run runs/vq --to masks --out m", 1, ("fifo",),
         uses=_USES, make=lambda folder: os.mkfifo(folder / "fifo")),
    Case("a shard that another has replaced", "decode codes --run runs/vq --to masks --out m", 1,
         ("missing or damaged",), uses=_USES, make=crafted(header={"names": [*"abcdefghijkl"]})),
    prior("a prior without a bias", q0_query_bias=None),
    prior("a prior of other shapes", q0_embedding=lambda old: old[:-1]),
    prior("a prior of the transposed shape", q0_query_weights=lambda old: old.T.copy()),
    prior("a prior of floats", q0_weights=lambda old: old.astype("<f4")),
    prior("a prior without values", q0_outputs=lambda old: old[:0]),
    prior("a prior for another grid", "not this run's", q0_row_bias=lambda old: old[:-1].copy()),
    prior("a prior with another bias", "not this run's", q0_query_bias=lambda old: old + 1),
    prior("a prior with one tensor more", q9_more=np.zeros(3, np.int8)),
    Case("a prior that is missing", _DECODE, 1, ("There is no prior",), uses=_USES,
         make=lambda folder: (folder / "runs/vq/prior.safetensors").unlink()),
    *(Case(f"a prior of {size} bytes", _DECODE, 1, ("prior.safetensors is damaged",), uses=_USES,
           make=shortened("runs/vq/prior.safetensors", size)) for size in (0, 7, 500, 9000)),
)  # fmt: skip


def _only_file(folder: Path) -> None:
    """Check that nothing was written beside the file that was there."""
    assert [path.name for path in folder.iterdir()] in ([], ["photo"])
