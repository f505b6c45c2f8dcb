"""Cases of damaged records, manifests, configurations and checkpoints: one line names file and field."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from squeeze_cli.codec.shards import read_output
from tests.cases.table import Case
from tests.fuzz.crafted import replace_fields

RUN = "runs/vq"
RECORD, MANIFEST = f"{RUN}/run.json", "codes/manifest.json"
CODES, SHARD = "codes/codes-00000.sqz", "codes/codes-00000.json"
_DECODE = f"decode {CODES} --run {RUN} --to features --out f"
_DEEP = "[" * 100_000 + "]" * 100_000


class Code:
    """An object that makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def written(file: str, content: str | bytes) -> Callable[[Path], object]:
    """Make a function that replaces the content of a file."""
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / file).write_bytes(data)


def changed(file: str, **fields: object) -> Callable[[Path], object]:
    """Make a function that changes fields of a JSON file."""
    return lambda folder: replace_fields(folder / file, **fields)


def edited(file: str, old: str, new: str) -> Callable[[Path], object]:
    """Make a function that replaces a text in a file."""

    def make(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return make


def in_place(file: str, put: Callable[[Path], object]) -> Callable[[Path], object]:
    """Make a function that puts something else in the place of a file."""

    def make(folder: Path) -> None:
        (folder / file).unlink()
        put(folder / file)

    return make


def record(name: str, make: Callable[[Path], object], *says: str, code: int = 1) -> Case:
    """Return the case of decoding by a run with this damage, which changes nothing."""
    return Case(
        f"run: {name}", _DECODE, code, says or ("run.json",), uses=("codes", RUN), make=make
    )


def manifest(name: str, make: Callable[[Path], object], *says: str, code: int = 1) -> Case:
    """Return the case of decoding a folder of codes whose manifest has this damage."""
    command = f"decode codes --run {RUN} --to features --out f"
    return Case(f"manifest: {name}", command, code, says or ("manifest.json",), uses=("codes", RUN),
                make=make)  # fmt: skip


def checkpoint(name: str, make: Callable[[Path], object]) -> Case:
    """Return the case of decoding by a run whose best.ckpt has this damage; no code in it may run."""
    return Case(f"best.ckpt: {name}", _DECODE, 1, ("best.ckpt",), uses=("codes", RUN),
                make=make, check=not_executed)  # fmt: skip


_FEATURES = "train --features features --epochs 1 --max-batches 2 --no-progress"


def not_executed(folder: Path) -> None:
    assert not (folder / "executed").exists()


def archive(path: Path) -> None:
    """Write a zip archive that is no checkpoint, compressed."""
    with ZipFile(path, "w", ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps(Code()))


def torch_file(content: object) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        import torch

        torch.save(content, path)

    return write


_BEST = f"{RUN}/checkpoints/best.ckpt"
_LAST = "runs/stopped/checkpoints/last.ckpt"
_COMPARE = {"uses": (RUN, "runs/base"), "writes": ("runs",)}

ROWS = (
    record("an empty record", written(RECORD, ""), "run.json is damaged (Expecting"),
    record("a record cut off", lambda f: (f / RECORD).write_text((f / RECORD).read_text()[:99])),
    record("a list for a record", written(RECORD, "[]"), "holds no JSON object"),
    record("a record in UTF-16", written(RECORD, "{}".encode("utf-16")), "not encoded in UTF-8"),
    record("a record nested deeply", written(RECORD, f'{{"a": {_DEEP}}}'), "nested too deeply"),
    record("a key twice", edited(RECORD, '"seed"', '"name": "x",\n "seed"'), "'name' occurs twice"),
    record("NaN", changed(RECORD, seconds__total=float("nan")), "seconds.total must"),
    record("a number beyond floats", edited(RECORD, '"total":', '"total": 1e999, "x":'),
           "seconds.total must"),
    record("5,000 digits", edited(RECORD, '"seed":', f'"seed": {"9" * 5000}, "x":'), "run.json"),
    record("another schema", changed(RECORD, schema_version=99), "update squeeze"),
    record("a text for the schema", changed(RECORD, schema_version="1"), "schema version 1"),
    record("no kind", changed(RECORD, kind=...), "kind is missing"),
    record("a text for a number", changed(RECORD, seed="7"), "seed must be a whole number"),
    record("a list for a section", changed(RECORD, quantizer=[]), "quantizer must be"),
    record("no quantizer", changed(RECORD, quantizer=None), "quantizer must be"),
    record("a grid of one side", changed(RECORD, quantizer__grid=[4]), "quantizer.grid"),
    record("a huge grid", changed(RECORD, quantizer__grid=[10**6, 10**6]), "quantizer.grid.0"),
    record("a grid of another shape", changed(RECORD, quantizer__grid=[2, 8]), "not vq on 2 x 8"),
    record("a huge width", changed(RECORD, model__feature_dim=10**12), "model.feature_dim"),
    record("no width", changed(RECORD, model__feature_dim=0), "model.feature_dim"),
    record("another width", changed(RECORD, model__feature_dim=65), "best.ckpt"),
    record("codes below zero", changed(RECORD, quantizer__code_sizes=[-1]), "quantizer.code_sizes"),
    record("a run that runs", changed(RECORD, status="running"), "is running, not finished"),
    record("an unknown status", changed(RECORD, status="done"), "status must be"),
    record("a folder for a record", in_place(RECORD, Path.mkdir), "run.json cannot be read (Is a dir"),
    record("a FIFO for a record", in_place(RECORD, os.mkfifo), "not a regular file"),
    record("no record", lambda f: (f / RECORD).unlink(), "holds no run.json"),
    record("an empty configuration", written(f"{RUN}/config.yaml", ""), "config.yaml"),
    record("a configuration of aliases", written(f"{RUN}/config.yaml", "a: &a [*a]"), "config.yaml"),
    record("a section twice", lambda f: (f / RUN / "config.yaml").open("a").write("model: {}\n"),
           "config.yaml", "'model' occurs twice"),
    record("no configuration", lambda f: (f / RUN / "config.yaml").unlink(), "config.yaml"),
    record("a huge configuration", edited(f"{RUN}/config.yaml", "bottleneck_dim: 64",
                                          "bottleneck_dim: 1000000000"), "bottleneck_dim"),
    Case("compare: broken records beside others", "compare runs --json", uses=(RUN, "runs/base"),
         says=('"broken"', "nested too deeply", '"vq"'),
         make=lambda f: (shutil.copytree(f / RUN, f / "runs/deep"),
                         (f / "runs/deep/run.json").write_text(f'{{"a": {_DEEP}}}'))),
    Case("compare: a FIFO for a record", "compare runs", uses=(RUN,), says=("not a regular file",),
         make=lambda f: ((f / "runs/fifo").mkdir(), os.mkfifo(f / "runs/fifo/run.json"))),
    Case("compare: brackets in texts", "compare runs", uses=(RUN,), says=("[/red]", ":smile:"),
         make=changed(RECORD, model__backbone="[/red]:smile:")),
    Case("compare: codes of the terminal in texts", "compare runs", uses=(RUN,),
         silent_on=("\x1b",),
         make=changed(RECORD, status="failed", error="a\x1b[2Jb\nc")),
    Case("evaluate: a damaged record", f"evaluate {RUN}", 1, ("kind is missing",),
         uses=(RUN, "pets"), make=changed(RECORD, kind=...)),
    Case("show: a damaged record", f"show {RUN}", 1, ("kind is missing",), uses=(RUN, "pets"),
         make=changed(RECORD, kind=...)),
    Case("extract: a damaged record", f"extract-embeddings {RUN} --images images", 1,
         ("kind is missing",), uses=(RUN, "images"), make=changed(RECORD, kind=...)),
    Case("resume: a damaged record", "train --resume --name stopped", 1, ("kind is missing",),
         uses=("runs/stopped", "pets"), make=changed("runs/stopped/run.json", kind=...)),
    manifest("an empty one", written(MANIFEST, "")),
    manifest("another program's", written(MANIFEST, "{}"), "another program", code=2),
    manifest("nested deeply", written(MANIFEST, _DEEP), "nested too deeply"),
    manifest("a key twice", edited(MANIFEST, '"images":', '"images": 1, "images":'), "twice"),
    manifest("no digest", changed(MANIFEST, run_digest=...), "run_digest is missing"),
    manifest("a text for a number", changed(MANIFEST, images="12"), "images must be"),
    manifest("images below zero", changed(MANIFEST, images=-1), "images must be"),
    manifest("version -1", changed(MANIFEST, version=-1), "version must be"),
    manifest("version 4", changed(MANIFEST, version=4), "newer version"),
    manifest("version true", changed(MANIFEST, version=True), "version must be"),
    manifest("an unknown field", changed(MANIFEST, colour="red"), "colour"),
    manifest("no shards", changed(MANIFEST, shards=0, images=0, bytes=0), "fit its shards"),
    manifest("a million shards", changed(MANIFEST, shards=10**6), "codes-00001.json"),
    manifest("other bytes", changed(MANIFEST, bytes=1), "fit its shards"),
    manifest("a distortion below zero", changed(MANIFEST, sums={"squared_error": -1.0}),
             "below zero"),
    manifest("of features", changed(MANIFEST, content="features"), "features-00000.json"),
    manifest("a FIFO for one", in_place(MANIFEST, os.mkfifo), "not a regular file"),
    manifest("missing", in_place(MANIFEST, lambda path: None), "is not complete", "squeeze merge"),
    manifest("a record that is missing", in_place(SHARD, lambda path: None), "codes-00000.json"),
    manifest("a record of another program", written(SHARD, "{}"), "another program", code=2),
    manifest("a record that is no JSON", written(SHARD, "{"), "codes-00000.json"),
    manifest("a record of version 4", changed(SHARD, version=4), "newer version"),
    manifest("a record of another shard", changed(SHARD, number=1, shards=2), "another shard"),
    manifest("a record with a mistyped number", changed(SHARD, images="12"), "images must be"),
    manifest("a record of another digest", changed(SHARD, blake2b="00"), "damaged"),
    manifest("a record of other bytes", changed(SHARD, bytes=9), "fit its shards"),
    manifest("a record of other settings", changed(SHARD, coding="packed"), "fit its shards"),
    manifest("a record and manifest of one image less",
             lambda f: (changed(SHARD, images=11)(f), changed(MANIFEST, images=11)(f)),
             "other images than its record"),
    manifest("a record without vectors", changed(SHARD, sums={"vectors": 0.0}), "below zero"),
    Case("manifest: of features, mistyped", _FEATURES, 1,
         ("manifest.json cannot be read", "images must be"), uses=("features",),
         make=changed("features/manifest.json", images="12")),
    Case("manifest: continued where it is mistyped",
         f"extract-embeddings {RUN} --images images --out codes", 1, ("images must be",),
         uses=(RUN, "images", "codes"), make=changed(MANIFEST, images="12")),
    Case("record: continued where it is mistyped",
         f"extract-embeddings {RUN} --images images --out codes", uses=(RUN, "images", "codes"),
         make=changed(SHARD, images="12"), writes=("codes",),
         check=lambda f: read_output(f / "codes")),
    *(Case(f"merge: {name}", "merge codes", code, says, uses=("codes",), make=make, writes=writes)
      for name, code, says, make, writes in (
          ("what is whole", 0, ("codes of 12 images in 1 files",), None, ("codes",)),
          ("a shard that is missing", 1, ("codes-00000.sqz is missing",),
           in_place(CODES, lambda path: None), ()),
          ("a shard that is cut off", 1, ("damaged",), lambda f: os.truncate(f / CODES, 90), ()),
          ("a record that is mistyped", 1, ("codes-00000.json", "images must be"),
           changed(SHARD, images="12"), ()),
          ("a part", 1, ("holds 1 of 2 shards (codes-00001.sqz is missing)",),
           changed(SHARD, shards=2), ()),
          ("too many records", 1, ("records of 2 shards, and its output 1",),
           lambda f: shutil.copy(f / SHARD, f / "codes/quantized-00000.json"), ()),
          ("no shards", 1, ("holds no shards",), lambda f: shutil.rmtree(f / "codes"), ("codes",)),
      )),
    *(Case(f"cache: {name}", "cache ls --cache-dir c --json", 0, ("0123456789",),
           make=lambda f, content=content: (
               (f / "c/features/0123456789abcdef0123").mkdir(parents=True),
               (f / "c/features/0123456789abcdef0123/space.json").write_text(content)))
      for name, content in (
          ("an empty space.json", ""), ("a deep space.json", _DEEP), ("a list", "[]"),
          ("fields missing", '{"backbone": "vit"}'), ("other types", '{"backbone": [1]}'))),
    checkpoint("empty", written(_BEST, "")),
    checkpoint("a text", written(_BEST, "weights")),
    checkpoint("cut off", lambda f: os.truncate(f / _BEST, 1000)),
    checkpoint("another archive", in_place(_BEST, archive)),
    checkpoint("a pickle with code", in_place(_BEST, torch_file({"state_dict": Code()}))),
    checkpoint("an old pickle with code", written(_BEST, pickle.dumps(Code()))),
    checkpoint("keys that are numbers", in_place(_BEST, torch_file({"state_dict": {1: 2}}))),
    checkpoint("a list", in_place(_BEST, torch_file([1, 2]))),
    checkpoint("no weights", in_place(_BEST, torch_file({"state_dict": {}, "epoch": 0}))),
    checkpoint("a folder", in_place(_BEST, Path.mkdir)),
    checkpoint("a FIFO", in_place(_BEST, os.mkfifo)),
    Case("best.ckpt: missing", _DECODE, 1, ("checkpoint",), uses=("codes", RUN),
         make=lambda f: (f / _BEST).unlink()),
    *(Case(f"last.ckpt: {name}", "train --resume --name stopped --no-progress", 1, ("last.ckpt",),
           uses=("runs/stopped", "pets"), make=make, check=not_executed)
      for name, make in (
          ("empty", written(_LAST, "")), ("cut off", lambda f: os.truncate(f / _LAST, 1000)),
          ("another archive", in_place(_LAST, archive)),
          ("a FIFO", in_place(_LAST, os.mkfifo)), ("missing", lambda f: (f / _LAST).unlink()))),
    Case("best.ckpt of a stopped run: missing", "train --resume --name stopped --no-progress", 1,
         ("best.ckpt is missing: restore it",), uses=("runs/stopped", "pets"),
         make=lambda f: (f / _LAST).with_name("best.ckpt").unlink()),
)  # fmt: skip
