"""Places of images: each kind gives the same names and bytes, and says what is wrong with it."""

from __future__ import annotations

import gzip
import os
import pickle
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from squeeze_cli.data import addresses
from squeeze_cli.data.image_lists import list_place, title_of
from squeeze_cli.data.reading import UnreadableImageError
from squeeze_cli.errors import SqueezeError, UsageError
from tests.places import PATHS, places, served, write_images, write_tar

KINDS = (
    "list of paths", "list of names", "list of addresses", "list at an address", "list of archives",
    "archive", "archives", "folder of archives", "archive at an address", "file address", "memory",
    "archive in memory",
)  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str], str]]:
    """A folder of images, the same in places of all kinds, and the address of a server."""
    folder = tmp_path_factory.mktemp("places")
    images = write_images(tmp_path_factory.mktemp("images") / "photos")
    with served(folder) as server:
        yield images, places(folder, images, server), server


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_place_gives_the_same_images(
    kept: tuple[Path, dict[str, str], str], kind: str
) -> None:
    images, found, _ = kept
    assert set(found) == set(KINDS)
    listing = list_place(found[kind])
    assert [sample.name for sample in listing.train] == list(PATHS.values())
    assert (listing.skipped, listing.val, listing.test) == ((), (), ())
    for sample, path in zip(listing.train, PATHS, strict=True):
        image = pickle.loads(pickle.dumps(sample)).read()
        assert image.content == (images / path).read_bytes()
        assert image.decode().size == image.facts.size_px


def test_a_folder_is_listed_as_before(kept: tuple[Path, dict[str, str], str]) -> None:
    listing = list_place(kept[0])
    assert [sample.name for sample in listing.train] == list(PATHS.values())
    assert "1 of .json" in listing.warnings[0]


def test_an_image_is_asked_for_again_and_a_lost_one_is_one_line(
    kept: tuple[Path, dict[str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _, server = kept
    monkeypatch.setattr(addresses, "PAUSES_S", (0, 0))
    (tmp_path / "web.txt").write_text(f"{server}/ill/copied/a.jpg?key=1\n{server}/gone.png\n")
    ill, gone = list_place(tmp_path / "web.txt").train
    assert ill.name == f"{server.removeprefix('http://')}/ill/copied/a"
    assert ill.read().content == (images / "a.jpg").read_bytes()
    with pytest.raises(UnreadableImageError, match=r"The image http:\S+gone.png is missing"):
        gone.read()
    monkeypatch.setattr(addresses, "PAUSES_S", ())
    with pytest.raises(UnreadableImageError, match=r"Cannot read .*b.png \(503"):
        type(ill)("b", f"{server}/ill/copied/below/b.png").read()
    with pytest.raises(UnreadableImageError, match="Cannot connect"):
        type(ill)("b", "http://127.0.0.1:9/b.png").read()


def test_members_are_named_by_their_keys(tmp_path: Path) -> None:
    png = b"png"
    files = {
        "./x/1.png": png, "x/2.jpg": png, "x/2.seg.png": png, "x/3.seg.png": png, "x/2.json": b"{}",
        "../../e.png": png, "/root.png": png, "._a.png": png, ".x/b.png": png, "b\udcff.png": png,
        "n" * 300 + ".PNG": png, "cls": b"3",
    }  # fmt: skip
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        archive = write_tar(tmp_path / "a.tar", files, format=kind)
        listing = list_place(archive)
        wanted = ["x/1", "x/2.jpg", "x/2.seg.png", "x/3", "e", "root", "n" * 300]
        assert [sample.name for sample in listing.train] == wanted
        assert listing.skipped == (("b\udcff", "its name is not UTF-8: rename it."),)
        assert listing.warnings == (
            f"Left out 2 files in {archive} that are not images: 1 of .json, 1 of no suffix.",
        )


def test_links_in_an_archive_are_skipped_and_its_last_file_of_a_name_counts(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", {"a.png": b"old", "b.png": b"b"})
    with tarfile.open(archive, "a") as added:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("c.png")
            link.type, link.linkname = kind, "a.png"
            added.addfile(link)
        added.add(Path(__file__), "a.png")
    listing = list_place(archive)
    assert [name for name, _ in listing.skipped] == ["c.png", "c.png"]
    assert [(s.name, s.size) for s in listing.train] == [
        ("a", Path(__file__).stat().st_size),
        ("b", 1),
    ]


def test_a_folder_of_archives_is_all_of_them(tmp_path: Path) -> None:
    for name in ("a.tar", "B.TAR", ".hidden.tar"):
        write_tar(tmp_path / name, {f"{name[0]}.png": b"1"})
    (tmp_path / "notes.txt").write_text("")
    assert [sample.name for sample in list_place(str(tmp_path)).train] == ["B", "a"]


def test_archives_that_count_alike_lead_their_names(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        write_tar(tmp_path / f"{name}.tar", {"0.png": name.encode(), "1.png": b"1"})
    listing = list_place(f"{tmp_path}/{{cats,dogs}}.tar")
    assert [s.name for s in listing.train] == ["cats/0", "cats/1", "dogs/0", "dogs/1"]
    write_tar(tmp_path / "more" / "cats.tar", {"1.png": b"1"})
    with pytest.raises(SqueezeError, match="Two images are named cats/1"):
        list_place(f"{tmp_path}/{{cats,more/cats}}.tar")


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("a.jpg\na.png\n", ["a.jpg", "a.png"]),
        ("../x/a.jpg\n/abs/b.jpg\n./c.d.jpg\n", ["x/a", "abs/b", "c.d"]),
        ("one\ta.jpg\ntwo\ta.jpg\n", ["one", "two"]),
        ("a.jpg\nb.jpg\na.jpg\n", ["a", "b"]),
        ("a.jpg\nb.jpg\n.//./a.jpg\n", ["a", "b"]),
        ("id 7\nw.v\n", ["id 7", "w.v"]),
        ("\ufeff# c\r\n  a.jpg  \r\n", ["a"]),
        ("https://h/a.jpg?x=1#y\nmemory://m/b.jpg\nhttp#1.jpg\n", ["h/a", "m/b", "http#1"]),
    ],
)
def test_names_of_lines(tmp_path: Path, lines: str, names: list[str]) -> None:
    (tmp_path / "list.txt").write_text(lines)
    listing = list_place(tmp_path / "list.txt")
    assert [sample.name for sample in listing.train] == names
    twice = lines.count("a.jpg\n") - names.count("a") == 1 and "b" in names
    assert any("listed more than once" in text for text in listing.warnings) == twice


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("../a\tb.jpg\n", "line 1: '../a' is not a path below a folder"),
        ("a.jpg\n/\n", "line 2: '/' is not a path below a folder"),
        ("a\tb.jpg\na\tc.jpg\n", "names two images a, such as .*c.jpg"),
        ("x/../a.jpg\na.jpg\nx/a.jpg\n", "names two images"),
        ("# none\n", "names nothing"),
        ("foo://b/a.jpg\n", "Protocol not known: foo"),
        ("a.jpg\0", "UTF-16 or no text"),
    ],
)
def test_lists_that_cannot_be(tmp_path: Path, lines: str, says: str) -> None:
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(SqueezeError, match=says):
        list_place(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda content: content[:1200], "damaged at byte 1,024|unexpected end"),
        (lambda content: content[:1029] + b"\xff" + content[1030:], "damaged at byte 1,024"),
        (lambda content: b"", "empty file"),
        (gzip.compress, "read the archive"),
        (lambda content: content * 2, "damaged at byte 5,120, or two in one"),
        (lambda content: content + bytes(2**21) + b"x", "damaged at byte 5,120"),
        (lambda content: b"no archive" * 200, "read the archive"),
    ],
)
def test_damaged_archives_are_no_short_ones(tmp_path: Path, damage, says: str) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{number}.png": bytes(400) for number in range(5)})
    assert len(list_place(path).train) == 5
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SqueezeError, match=says):
        list_place(path)


def test_an_archive_that_becomes_shorter_is_one_line(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.png": bytes(400)})
    sample = list_place(path).train[0]
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UnreadableImageError, match=r"the image a in \S+a.tar \(188 bytes came"):
        sample.read()


def test_a_server_that_sends_no_parts_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fsspec.filesystem("memory")
    files.pipe(f"/{tmp_path.name}.tar", write_tar(tmp_path / "a.tar", {"a.png": b"a"}).read_bytes())
    (sample,) = list_place(f"memory://{tmp_path.name}.tar").train
    whole = type(files).cat_file
    monkeypatch.setattr(type(files), "cat_file", lambda self, path, **_: whole(self, path))
    with pytest.raises(UnreadableImageError, match="whole files in place of parts: download"):
        sample.read()


@pytest.mark.parametrize(
    ("place", "title"),
    [
        ("photos/", "photos"), ("lists/train.txt", "train"), ("shards/{000..999}.tar", "000..999"),
        ("s3://bucket/a b.tar", "a-b"), ("https://host/list.txt?key=1", "list"), ("/", "images"),
    ],
)  # fmt: skip
def test_titles(place: str, title: str) -> None:
    assert title_of(place) == title


@pytest.mark.parametrize(
    "place",
    [
        "{a,b,c}" * 30,
        "{x,{y{a,b}}}" * 20,
        "{0..9}" * 7,
        "{x" + "{a,b}" * 40 + ",y}.tar",
        "{" * 3000 + "a,b" + "}" * 3000,
    ],
)
def test_braces_of_too_many_places_are_refused_at_once(place: str) -> None:
    with pytest.raises(UsageError, match=r"more than 1,000,000 places|recursion"):
        list_place(place)


def test_braces_may_be_longer_than_a_file_name(tmp_path: Path) -> None:
    names = [f"{number:060}" for number in range(9)]
    for name in names:
        write_tar(tmp_path / f"{name}.tar", {f"{name[-1]}.png": b"a"})
    listing = list_place(f"{tmp_path}/{{{','.join(names)}}}.tar")
    assert [sample.name for sample in listing.train] == list("012345678")


def test_a_million_archives_end_at_the_first_that_is_missing() -> None:
    began = time.monotonic()
    with pytest.raises(SqueezeError, match=r"There is no /none/00000\d.tar"):
        list_place("/none/{000000..999999}.tar")
    assert time.monotonic() - began < 8


def test_nothing_of_an_empty_address(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/notes.md", b"")
    with pytest.raises(SqueezeError, match="holds no images"):
        list_place(f"memory://{tmp_path.name}")


def test_a_pipe_is_no_archive_and_hidden_files_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(SqueezeError, match="not a regular file"):
        list_place(tmp_path / "a.tar")
    write_tar(tmp_path / "folder" / "b.tar", {"1.png": b""})
    (tmp_path / "folder" / "._b.tar").write_text("of a Macintosh")
    assert [sample.name for sample in list_place(tmp_path / "folder").train] == ["1"]
