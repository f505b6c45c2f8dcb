"""Cases of codes files and priors that were made to deceive: their checksums are right."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.cases.table import Case
from tests.fuzz.crafted import bomb, craft, craft_prior, pack_names, parts, replace_fields

CODES = "codes/codes-00000.safetensors"
_DECODE = f"decode {CODES} --run runs/vq --to masks --out m"
_USES = ("codes", "runs/vq")
_DAMAGED = "is damaged, or no codes file"


def crafted(metadata: dict[str, str | None], **tensors: Any) -> Callable[[Path], object]:
    """Make a function that changes the codes file; a tensor may be a function of the old one."""

    def make(folder: Path) -> None:
        content = (folder / CODES).read_bytes()
        _, own = parts(content)
        changed = {n: value(own[n]) if callable(value) else value for n, value in tensors.items()}
        (folder / CODES).write_bytes(craft(content, metadata, **changed))

    return make


def nothing_outside(folder: Path) -> None:
    """Check that no mask was written, wherever."""
    assert not (folder / "m").exists() or not list((folder / "m").rglob("*"))
    assert not list(folder.parent.glob("*.png"))
    assert not list(folder.glob("*.png"))


def codes(name: str, metadata: dict[str, str | None], *says: str, **tensors: Any) -> Case:
    """Return the case of a codes file with these metadata and tensors."""
    return Case(
        name, _DECODE, 1, says or (_DAMAGED,), uses=_USES, make=crafted(metadata, **tensors),
        check=nothing_outside,
    )  # fmt: skip


def named(name: str, *names: str) -> Case:
    """Return the case of a codes file whose first images have these names."""

    def rename(_: Any) -> Any:
        return pack_names(*names, *(str(n) for n in range(12 - len(names))))

    return codes(name, {}, "codes-00000.safetensors", names=rename)


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


ROWS = (
    Case("codes as they are", _DECODE, uses=_USES, writes=("m",)),
    codes("a grid of as many vectors", {"grid": "[2,8]"}, "codes of vq on 2 x 8"),
    codes("a grid of other sides", {"grid": "[1,16]"}, "codes of vq on 1 x 16"),
    codes("a grid of 10^12 vectors", {"grid": "[1000000,1000000]"}),
    codes("a grid of 2^62 rows", {"grid": f"[{2**62},1]"}),
    codes("no rows", {"grid": "[0,4]"}, "on 0 x 4"),
    codes("a grid below zero", {"grid": "[-4,-4]"}),
    codes("a grid of fractions", {"grid": "[4.0,4.0]"}),
    codes("a grid of texts", {"grid": '["4","4"]'}),
    codes("a grid of three sides", {"grid": "[4,4,1]"}),
    codes("a grid in deep brackets", {"grid": "[" * 5000 + "]" * 5000}),
    codes("a grid that is missing", {"grid": None}),
    codes("codes of 8 values", {"code_sizes": "[8]"}, "make it again"),
    codes("codes of one value more", {"code_sizes": "[513]"}, "make it again"),
    codes("codes of 2^63 values", {"code_sizes": f"[{2**63}]"}),
    codes("codes of no values", {"code_sizes": "[0]"}),
    codes("codes of true values", {"code_sizes": "[true]"}),
    codes("no codes per vector", {"code_sizes": "[]"}),
    codes("two codes per vector", {"code_sizes": "[512,512]"}, "make it again"),
    codes("a million codes per vector", {"code_sizes": f"[{'512,' * 999_999}512]"}),
    codes("a thousand codes per vector", {"code_sizes": f"[{'512,' * 999}512]"}, "make it again"),
    codes("the quantizer of another run", {"quantizer": "fsq"}, "codes of fsq"),
    codes("another run", {"run": "0123456789abcdef"}, "another run"),
    codes("no run", {"run": ""}, "unnamed"),
    codes("another prior", {"prior": "00000000"}, "another prior"),
    codes("codes that were never packed", {"coding": "packed", "prior": None}),
    codes("an unknown coding", {"coding": "zip"}),
    codes("another format", {"format": "safetensors"}),
    codes("version -1", {"version": "-1"}),
    codes("version 0", {"version": "0"}),
    codes("version 1e9", {"version": "1e9"}),
    codes("version one", {"version": "one"}),
    codes("version 1 and a blank", {"version": " 1"}),
    codes("no version", {"version": None}),
    codes("version 5,000 digits", {"version": "1" * 5000}),
    codes("version 2", {"version": "2"}, "update squeeze"),
    named("the empty name", ""),
    named("the name of the folder", "."),
    named("the name of the folder above", ".."),
    named("an absolute name", "/abs"),
    named("a name that leaves the folder", "a/../../b"),
    named("a name that goes through the folder", "a/./b"),
    named("a name that ends in a slash", "a/"),
    named("one name twice", "a", "a"),
    codes("one name too few", {}, names=pack_names(*map(str, range(11)))),
    codes("one name too many", {}, names=pack_names(*map(str, range(13)))),
    codes("a million names", {}, names=pack_names(*map(str, range(10**6)))),
    codes("names of 1 GB", {}, names=bomb(2**30)),
    codes("names that are no deflate", {}, names=np.full(9, 255, np.uint8)),
    codes("names and more", {}, names=lambda old: np.append(old, np.uint8(0))),
    codes("lengths of 64 bits that wrap around", {},
          lengths=lambda old: old.astype("<u8") + np.uint64(2**63) * (np.arange(12) < 2)),
    codes("lengths beyond the payload", {}, lengths=np.full(12, 2**32 - 1, "<u4")),
    codes("lengths below zero", {}, lengths=lambda old: old.astype("<i8") - 10**9),
    codes("lengths of floats", {}, lengths=lambda old: old.astype("<f4")),
    codes("lengths in rows", {}, lengths=lambda old: old.reshape(3, 4)),
    codes("one byte less for one image and more for another", {},
          lengths=lambda old: old + np.asarray([1, 255, *[0] * 10], np.uint8)),
    codes("no images", {}, "has no images", lengths=np.zeros(0, np.uint8), names=pack_names(),
          payload=np.zeros(0, np.uint8)),
    codes("no lengths", {}, lengths=None),
    codes("no payload", {}, payload=None),
    codes("a tensor too many", {}, extra=np.zeros(3, np.uint8)),
    codes("a payload of signed bytes", {}, payload=lambda old: old.view(np.int8)),
    codes("a payload of zeros", {}, payload=np.zeros_like),
    codes("the checksum of another file", {}, crc32=np.asarray([7], "<u4")),
    codes("two checksums", {}, crc32=np.asarray([7, 7], "<u4")),
    *(Case(f"a codes file of {size} bytes", _DECODE, 1, (_DAMAGED,), uses=_USES,
           make=shortened(CODES, size)) for size in (0, 7, 8, 100)),
    Case("a FIFO for a codes file", "decode fifo --run runs/vq --to masks --out m", 1, ("fifo",),
         uses=_USES, make=lambda folder: os.mkfifo(folder / "fifo")),
    Case("a shard that another has replaced", "decode codes --run runs/vq --to masks --out m", 1,
         ("missing or damaged",), uses=_USES, make=crafted({}, names=pack_names(*"abcdefghijkl"))),
    Case("a manifest that names its shard twice", "decode codes --run runs/vq --to masks --out m",
         1, ("images are not as many",), uses=_USES,
         make=lambda folder: _repeat_shard(folder / "codes/manifest.json")),
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


def _repeat_shard(manifest: Path) -> None:
    shards = json.loads(manifest.read_text())["shards"]
    replace_fields(manifest, shards=shards * 2)
