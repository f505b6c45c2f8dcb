"""Cases of `--features`: arrays that hold no features, damaged files, and names of rows."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.cases.table import Case

TRAIN = (
    "train --epochs 1 --max-batches 2 --no-progress --bottleneck-dim 4 --codebook-size 16 --name x"
)
VALUES = np.random.default_rng(0).normal(size=(12, 4, 5, 16)).astype(np.float32)
NAMES = "".join(f"n{row}\n" for row in range(len(VALUES)))
Make = Callable[[Path], object]


def saved(values: NDArray[np.generic], name: str = "f.npy") -> Make:
    return lambda folder: np.save(folder / name, values)


def broken(*changes: tuple[int, float]) -> NDArray[np.float32]:
    values = VALUES.copy()
    for row, value in changes:
        values[row, 1, 2, 3] = value
    return values


def header(text: str, content: bytes = bytes(4096)) -> bytes:
    """The bytes of an .npy file with this header, whatever it says."""
    padded = text.encode() + b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + content


def described(shape: str, descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"


def with_header(text: str) -> Make:
    return lambda folder: (folder / "f.npy").write_bytes(header(text))


def zipped(text: str, compression: int = 0) -> Make:
    def make(folder: Path) -> None:
        with ZipFile(folder / "f.npz", "w", compression) as archive:
            archive.writestr("a.npy", header(text))

    return make


def halved(name: str, make: Make) -> Make:
    def cut(folder: Path) -> None:
        make(folder)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return cut


def flipped(name: str, make: Make) -> Make:
    def flip(folder: Path) -> None:
        make(folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return flip


def twice(folder: Path) -> None:
    with (folder / "f.npy").open("wb") as file:
        np.save(file, VALUES)
        np.save(file, VALUES)


def npz(folder: Path) -> None:
    np.savez(folder / "f.npz", features=VALUES)


def safetensors(folder: Path) -> None:
    save_file({"features": VALUES}, folder / "f.safetensors")


def in_folder(*others: tuple[str, NDArray[np.generic]]) -> Make:
    def make(folder: Path) -> None:
        (folder / "f").mkdir()
        for row, values in enumerate(VALUES):
            np.save(folder / "f" / f"r{row}.npy", values)
        for name, values in others:
            np.save(folder / "f" / f"{name}.npy", values)

    return make


def beside(folder: Path) -> None:
    """Features in a linked folder, a pipe, a text and a link back."""
    in_folder()(folder)
    (folder / "f").rename(folder / "elsewhere")
    (folder / "f").mkdir()
    (folder / "f" / "link").symlink_to("../elsewhere")
    (folder / "f" / "back").symlink_to("../f")
    os.mkfifo(folder / "f" / "pipe.npy")
    (folder / "f" / "notes.txt").touch()


def named(names: str | bytes) -> Make:
    content = names.encode() if isinstance(names, str) else names
    return lambda folder: (saved(VALUES)(folder), (folder / "n.txt").write_bytes(content))


def row(
    name: str, make: Make, *says: str, file: str = "f.npy", options: str = "", code: int = 1
) -> Case:
    return Case(
        name, f"{TRAIN} --features {file}{options}", code, says, silent_on=("RuntimeWarning",), make=make
    )  # fmt: skip


def trains(name: str, make: Make, *says: str, file: str = "f.npy", options: str = "") -> Case:
    return row(name, make, *says, file=file, options=options, code=0)


BY_NAME = " --feature-names n.txt"
SHARD = "features/features-00000.safetensors"

ROWS = (
    trains("Fortran order, big-endian", saved(np.asfortranarray(VALUES.astype(">f8")))),
    row("values that are not finite", saved(broken((3, np.nan), (5, np.inf))),
        "2 of 12 feature maps", "not finite", "row 3 of f.npy"),
    row("values beyond float32", saved(np.full((12, 4), 1e300)), "12 of 12 feature maps", "not finite"),
    row("objects", saved(np.array([VALUES[0], 1], dtype=object)), "Cannot read", "Python objects"),
    row("whole numbers", saved(VALUES.astype(np.int32)), "values of type int32", "convert them"),
    row("complex numbers", saved(VALUES.astype(np.complex64)), "values of type complex64"),
    row("no rows", saved(VALUES[:0]), "shape [0, 4, 5, 16]"),
    row("one row", saved(VALUES[:1]), "Too few images"),
    row("three dimensions", saved(VALUES[0]), "shape [4, 5, 16]", "[N, h, w, C] or [N, C]"),
    row("half a file", halved("f.npy", saved(VALUES)), "Cannot read", "file size"),
    row("two arrays in one .npy", twice, "it is longer than its header says"),
    row("an empty file", lambda folder: (folder / "f.npy").touch(), "Cannot read"),
    row("a pipe", lambda folder: os.mkfifo(folder / "f.npy"), "There are no features"),
    row("a device", lambda folder: (folder / "f.npy").symlink_to("/dev/zero"), "There are no features"),
    row("a header of 4 EB", with_header(described("(1000000000, 1000000000)")), "Cannot read"),
    row("a header that overflows", with_header(described("(4611686018427387904, 8)")), "Cannot read"),
    row("a negative shape", with_header(described("(-3, 4)")), "Cannot read"),
    row("a shape of true", with_header(described("(True, 4)")), "Cannot read"),
    row("a header that is a program", with_header("__import__('os').mkdir('made')"), "Cannot read"),
    row("a header of 3,000 brackets", with_header("(" * 3000 + ")" * 3000), "Cannot read"),
    row("objects by header", with_header(described("(4, 4)", "|O")), "Cannot read"),
    row("an archive of 4 TB", zipped(described("(1000000, 1000000)"), ZIP_DEFLATED),
        "another size than its header says", file="f.npz"),
    row("a stored archive of 4 TB", zipped(described("(1000000, 1000000)")),
        "another size than its header says", file="f.npz"),
    row("half an archive", halved("f.npz", npz), "Cannot read", file="f.npz"),
    row("a flipped bit in an archive", flipped("f.npz", npz), "the CRC-32 of features.npy differs",
        file="f.npz"),
    row("objects in an archive", lambda folder: np.savez(folder / "f.npz", a=np.array([1, "x"], object)),
        "Cannot read", file="f.npz"),
    row("two arrays in an archive", lambda folder: np.savez(folder / "f.npz", a=VALUES, b=VALUES),
        "f.npz holds 2 arrays (a, b)", file="f.npz"),
    row("half of safetensors", halved("f.safetensors", safetensors), "Cannot read", file="f.safetensors"),
    row("safetensors without tensors", lambda folder: save_file({}, folder / "f.safetensors"),
        "holds 0 arrays", file="f.safetensors"),
    row("maps of other widths in a folder", in_folder(("z", VALUES[0, :3])), "must have one shape",
        "f/z.npy is 3 x 5 x 16", file="f"),
    row("a vector among maps", in_folder(("z", VALUES[0, 0, 0])), "f/z.npy is 1 x 1 x 16", file="f"),
    row("a map of NaN in a folder", in_folder(("z", broken((0, np.nan))[0])), "1 of 13", "f/z.npy",
        file="f"),
    trains("links and other files in a folder", beside, "Left out 2 files in f that are not features",
           "1 folders in f are links", file="f"),
    row("vectors without neighbours", saved(VALUES[:, 0, 0]), "--code-stride 2 joins neighbouring",
        options=" --code-stride 2", code=2),
    row("an empty folder", lambda folder: (folder / "f").mkdir(), "holds no features", file="f"),
    Case("a shard that was changed", f"{TRAIN} --features features", 1,
         ("features-00000.safetensors is missing or damaged",), uses=("features",),
         make=flipped(SHARD, lambda folder: None)),
    trains("names of Windows", named("\ufeff" + NAMES.replace("\n", "\r\n")), options=BY_NAME),
    row("fewer names", named(NAMES[:-4]), "n.txt has 11 names and f.npy 12 rows", options=BY_NAME),
    row("more names", named(NAMES + "more\n"), "13 names and f.npy 12 rows", options=BY_NAME),
    row("a name twice", named(NAMES.replace("n3", "n4")), "the name 'n4' 2 times", options=BY_NAME),
    row("an empty name", named(NAMES.replace("n3", "")), "n.txt, line 4 is empty", options=BY_NAME),
    row("names in UTF-16", named(NAMES.encode("utf-16")), "n.txt", "UTF-16", options=BY_NAME),
    row("names in a pipe", lambda folder: (saved(VALUES)(folder), os.mkfifo(folder / "n.txt")),
        "n.txt", "not a regular file", options=BY_NAME),
    row("no file of names", saved(VALUES), "n.txt", "No such file", options=BY_NAME),
    row("names at an address", saved(VALUES), "Cannot read memory:/n.txt", "No such file",
        options=" --feature-names memory://n.txt"),
)  # fmt: skip
