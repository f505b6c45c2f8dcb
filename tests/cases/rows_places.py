"""Cases of places of images: lists, archives and addresses, as people write them."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from squeeze_cli.api import open_run
from tests.cases.table import Case
from tests.places import write_tar

EXTRACT = "extract-embeddings runs/vq --out out --images"


def listed(*lines: str) -> Callable[[Path], object]:
    """Give a function that writes a list."""
    return lambda folder: (folder / "list.txt").write_text("\n".join(lines) + "\n")


def list_of_all(folder: Path) -> None:
    """Write a list of all photographs by their names."""
    lines = [f"{path.stem}\timages/{path.name}\n" for path in sorted((folder / "images").iterdir())]
    (folder / "list.txt").write_text("".join(lines))


def archives_of_all(folder: Path) -> None:
    """Write all photographs into archives of five."""
    photos = sorted((folder / "images").iterdir())
    for number in range(3):
        some = photos[5 * number : 5 * number + 5]
        write_tar(folder / f"{number}.tar", {path.name: path.read_bytes() for path in some})


def archived(*paths: str) -> Callable[[Path], object]:
    """Give a function that writes an archive of one photograph under several names."""

    def make(folder: Path) -> None:
        photo = (folder / "images" / "photo_0.jpg").read_bytes()
        write_tar(folder / "a.tar", dict.fromkeys(paths, photo))

    return make


def same_codes(folder: Path) -> None:
    """Check that the codes are those of the folder of photographs, byte for byte."""
    for path in (folder / "codes").glob("*.sqz"):
        assert (folder / "out" / path.name).read_bytes() == path.read_bytes()


def holds(*names: str) -> Callable[[Path], object]:
    """Give a check that the codes are those of these images."""

    def check(folder: Path) -> None:
        file = open_run(folder / "runs" / "vq").open(folder / "out" / "codes-00000.sqz")
        assert [name for batch, _ in file.batches() for name in batch] == list(names)

    return check


def archived_with_a_link(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(folder / "images" / "photo_0.jpg", "0.jpg")
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "0.jpg"
        archive.addfile(link)


def taken(
    name: str, place: str, make: Callable[[Path], object], check: Callable[[Path], object],
    *says: str,
) -> Case:  # fmt: skip
    """Give a row whose images become codes."""
    return Case(
        name, f"{EXTRACT} {place}", says=says, uses=("images", "codes", "runs/vq"), make=make,
        writes=("out", "runs"), check=check,
    )  # fmt: skip


def refused(
    name: str, place: str, says: str, make: Callable[[Path], object] = Path.exists, code: int = 1,
    writes: tuple[str, ...] = (),
) -> Case:  # fmt: skip
    return Case(
        name, f"{EXTRACT} {place}", code, (says,), uses=("images", "runs/vq"), make=make, writes=writes,
    )  # fmt: skip


ROWS = (
    taken("a list of all", "list.txt", list_of_all, same_codes),
    taken("archives of all", "'{0..2}.tar'", archives_of_all, same_codes),
    taken("a list with a lost image", "list.txt", listed("images/gone.jpg", "x\timages/photo_0.jpg"),
          holds("x"), "Skipped images/gone: The image images/gone.jpg is missing"),
    taken("a share of lost images", "list.txt --max-bad 50%",
          listed("images/gone.jpg", "x\timages/photo_0.jpg"), holds("x")),
    *[refused(f"too many lost images: {most}", f"list.txt --max-bad {most}",
              f"1 of 2 images cannot be read, more than --max-bad {most}: The image images/gone.jpg is",
              listed("images/gone.jpg", "x\timages/photo_0.jpg"), writes=("out", "runs"))
      for most in ("0", "49.9%", "0.4")],
    *[refused(f"a limit of {most}", f"images --max-bad={most}", f"--max-bad {most}: give a share", code=2)
      for most in ("few", "1.5", "101%", "nan", "-1", "²")],
    refused("links are lost images", "a.tar --max-bad 0",
            "1 of 2 images cannot be read, more than --max-bad 0: it is a link or a special file",
            archived_with_a_link, writes=("out", "runs")),
    taken("an archive", "a.tar", archived("k/1.jpg", "k/2.jpg", "k/2.cls"), holds("k/1", "k/2"),
          "Left out 1 files in a.tar that are not images: 1 of .cls"),
    refused("an archive without images", "a.tar", "a.tar holds no images", archived("a.cls")),
    refused("a compressed archive", "a.tar.gz", "a.tar.gz is compressed"),
    refused("no such archive", "gone.tar", "There is no gone.tar"),
    refused("no such place", "gone", "gone is missing: give a folder of images, list"),
    refused("no such list", "gone.txt", "Cannot read gone.txt"),
    refused("an image", "images/photo_0.jpg", "photo_0.jpg is no folder of images, list"),
    refused("open braces", "'{1..3.tar'", "Unbalanced braces", code=2),
    refused("too many archives", "'{0..99999999}.tar'", "more than 1,000,000 places", code=2),
    refused("a protocol without a driver", "s3://b/x", 'pip install "squeeze-cli[s3]"'),
    refused("no such cluster", "images --engine ray --address 127.0.0.1:9",
            "Cannot use the Ray cluster 127.0.0.1:9 ([Errno 111] Connection refused)"),
    replace(refused("no such cluster, by Ray's variable", "images --engine ray",
                    "Cannot use the Ray cluster 127.0.0.1:9 ("), env={"RAY_ADDRESS": "127.0.0.1:9"}),
    refused("no address of a cluster", "images --engine ray --address head",
            "give auto, local, HOST:PORT", code=2),
    refused("an address without Ray", "images --address auto", "add it", code=2),
    refused("GPUs without Ray", "images --gpus-per-worker 1", "add it", code=2),
    refused("an unknown protocol", "nope://b/x", "Protocol not known: nope"),
    refused("a folder of the web", "http://127.0.0.1:9/x", "give a list file"),
)  # fmt: skip
