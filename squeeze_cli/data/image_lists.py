"""Listing of images in folders, list files and tar archives, local or at an address."""

import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import islice
from math import prod
from os.path import exists, isdir
from pathlib import Path
from posixpath import basename, dirname, join, splitext
from typing import IO

from braceexpand import braceexpand

from squeeze_cli.data.addresses import is_address, open_address
from squeeze_cli.data.finding import IMAGE_SUFFIXES, list_images, name_images, names_below
from squeeze_cli.data.reading import read_entries
from squeeze_cli.data.samples import FileSample, Sample, StoredSample
from squeeze_cli.data.sources import Listing
from squeeze_cli.errors import SqueezeError, UsageError, one_line

_LIST = re.compile(r"\.(txt|lst)$", re.IGNORECASE)
_ARCHIVE = re.compile(r"\.tar$", re.IGNORECASE)
_COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
_WEB = ("http://", "https://")
MOST_PLACES = 1_000_000
# Number of archives that are listed at once, because servers answer slowly.
THREADS = 8


def list_place(place: Path | str) -> Listing:
    """List the images of a folder, a list file, tar archives, or an address of one of these.

    `shards/{000..999}.tar` stands for a thousand archives. docs/usage.md describes the names of the
    images. All samples are in `train`; the images themselves are not read.

    Raises SqueezeError where a place is missing or damaged, or holds no images, and where two images
    have one name; UsageError for braces that cannot be expanded.
    """
    text = str(place)
    places = [text]
    # `Path.exists` raises for long names, as texts with braces may be.
    if is_address(text) or not exists(text):  # noqa: PTH110
        try:  # braceexpand expands inner braces in memory, so their places are counted before
            few = prod(map(_count, re.findall(r"\{([^{}]*)\}", text))) <= MOST_PLACES
            places = list(islice(braceexpand(text, escape=False), MOST_PLACES + 1)) if few else []
        except (ValueError, RecursionError) as error:
            fix = "write, as an example, {000..999}.tar."
            raise UsageError(f"{one_line(error)}: {fix}") from None
        if not 0 < len(places) <= MOST_PLACES:
            raise UsageError(f"{text} stands for more than {MOST_PLACES:,} places: name fewer.")
    listing = _list_all(places)
    if not (listing.train or listing.skipped):
        raise SqueezeError(f"{text} holds no images: name a place with some.")
    return listing


def title_of(place: Path | str) -> str:
    """Return a short name of a place: the last part of its path, without suffix of list or archive."""
    text = str(place) if is_address(str(place)) else str(Path(place).resolve())
    last = _ARCHIVE.sub("", _LIST.sub("", basename(_relative(text))))
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or "images"


def _count(braces: str) -> int:
    """Return the number of places that a pair of braces stands for, by its content."""
    if found := re.match(r"(-?\d+)\.\.(-?\d+)", braces):
        return abs(int(found[2]) - int(found[1])) + 1
    return braces.count(",") + 1


def _without_suffix(path: str) -> str:
    """Return a path without the suffix of an image; other dots are part of the name."""
    stem, suffix = splitext(path)
    return stem if suffix.lower() in IMAGE_SUFFIXES else path


def _list_all(places: Sequence[str]) -> Listing:
    """List several places; where images share names, each name begins with the title of its place."""
    listings: list[Listing] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for begin in range(0, len(places), 8 * THREADS):  # in parts, so that an error comes early
            listings += pool.map(_list_one, places[begin : begin + 8 * THREADS])
    samples = [sample for listing in listings for sample in listing.train]
    if len({sample.name for sample in samples}) < len(samples):
        samples = [
            replace(sample, name=f"{title_of(place)}/{sample.name}")
            for place, listing in zip(places, listings, strict=True)
            for sample in listing.train
        ]
        name, uses = Counter(sample.name for sample in samples).most_common(1)[0]
        if uses > 1:
            raise SqueezeError(f"Two images are named {name}: give their archives different names.")
    return Listing(
        tuple(samples),
        skipped=tuple(each for listing in listings for each in listing.skipped),
        warnings=tuple(each for listing in listings for each in listing.warnings),
    )


def _list_one(place: str) -> Listing:
    if place.startswith("file://"):
        place = open_address(place)[1]
    if not is_address(place) and isdir(place):  # noqa: PTH112
        return _list_folder(Path(place))
    name = _relative(place)
    if _COMPRESSED.search(name):
        raise SqueezeError(
            f"{place} is compressed, so that no image can be read alone: decompress it to a .tar file."
        )
    if _LIST.search(name):
        return _list_lines(place)
    if _ARCHIVE.search(name):
        return _list_archive(place)
    if is_address(place):
        return _list_below(place)
    found = "is no" if exists(place) else "is missing: give a"  # noqa: PTH110
    raise SqueezeError(f"{place} {found} folder of images, list (.txt, .lst) or archive (.tar).")


def _list_folder(folder: Path) -> Listing:
    """List the images below a folder, or in its archives if it holds no images."""
    try:
        return list_images(folder)
    except SqueezeError:
        files = (path for path in folder.iterdir() if _is_shown(path.name))
        archives = sorted(str(path) for path in files if _ARCHIVE.search(path.name))
        if not archives:
            raise
        return _list_all(archives)


def _list_below(address: str) -> Listing:
    """List the images below a folder at an address, or in its archives if it holds no images."""
    file_system, folder = open_address(address)
    if address.startswith(_WEB):
        raise SqueezeError(
            f"{address} cannot be listed: give a list file (.txt) with an address on each line."
        )
    with _one_line_errors("list", address):
        found = sorted(file_system.find(folder))
    start = len(folder.rstrip("/")) + 1
    places = {path[start:]: file_system.unstrip_protocol(path) for path in found}
    shown = [path for path in places if _is_shown(path)]
    listing = name_images(address, shown, lambda name, path: StoredSample(name, places[path]))
    archives = [places[path] for path in shown if _ARCHIVE.search(path)]
    return _list_all(archives) if archives and not listing.train else listing


def _list_lines(place: str) -> Listing:
    """List the images in a list file: a path or an address per line, optionally after a name and a tab.

    A relative path starts at the folder of the file.
    """
    pairs = [(number, *line.rpartition("\t")[::2]) for number, line in read_entries(place)]
    for number, name, target in pairs:
        if name != _relative(name) or not _relative(target):
            raise SqueezeError(
                f"{place}, line {number}: {name or target!r} is not a path below a folder: correct it."
            )
    listed = {(name, _joined(place, target)): target for _, name, target in pairs}
    targets = [target for _, target in listed]
    by_protocol = {each.partition("://")[0]: each for each in targets if is_address(each)}
    for address in by_protocol.values():
        open_address(address)  # a missing driver is reported now
    if all(_ARCHIVE.search(_relative(target)) for target in targets):
        return _list_all(targets)
    unnamed = [_relative(target) for (name, _), target in listed.items() if not name]
    short = iter(names_below(unnamed, _without_suffix))
    samples: dict[str, Sample] = {}
    for given, target in listed:
        name = given or next(short)
        if name in samples:
            raise SqueezeError(
                f"{place} names two images {name}, such as {target}: write a name and a tab before each."
            )
        remote = is_address(target)
        samples[name] = StoredSample(name, target) if remote else FileSample(name, Path(target))
    twice = len(pairs) - len(listed)
    warnings = [f"{twice} images are listed more than once; each counts once."] if twice else []
    return Listing(tuple(samples.values()), warnings=tuple(warnings))


def _list_archive(place: str) -> Listing:
    """List the images in a tar archive by the keys of WebDataset; they are read later by offset.

    A key is the path of a member up to the first dot of its file name.
    """
    parts: dict[str, tuple[int, int]] = {}
    links = []
    with (
        _one_line_errors("read the archive", place),
        _opened(place) as file,
        tarfile.open(fileobj=file, mode="r:") as archive,
    ):
        for member in archive:
            if member.isreg() and not member.issparse():
                # Of two members with one name the last one counts, as in unpacking.
                parts[_relative(member.name)] = (member.offset_data, member.size)
            elif not member.isdir():
                links.append(
                    (member.name, "it is a link or a special file: store the image itself.")
                )
        file.seek(archive.offset)
        while rest := file.read(2**20):  # images of an appended archive would be lost
            if rest.strip(b"\0"):
                raise tarfile.ReadError(f"damaged at byte {archive.offset:,}, or two in one")
    listing = name_images(
        place, list(filter(_is_shown, parts)),
        sample=lambda name, path: StoredSample(name, place, *parts[path]),
        stem=lambda path: join(dirname(path), basename(path).partition(".")[0]),
    )  # fmt: skip
    return replace(listing, skipped=(*listing.skipped, *links))


def _is_shown(path: str) -> bool:
    """Return whether no part of a path is hidden, that is, begins with a dot."""
    return path != "" and not any(part.startswith(".") for part in path.split("/"))


def _relative(place: str) -> str:
    """Return a place as a relative path: without protocol, query, root, and `..`."""
    path = place.partition("://")[2] or place
    if place.startswith(_WEB):
        path = re.split("[?#]", path)[0]
    return "/".join(part for part in path.split("/") if part not in ("", ".", ".."))


def _joined(file: str, target: str) -> str:
    """Return the local path or address in a line of a list file."""
    if target.startswith("file://"):
        return open_address(target)[1]
    if is_address(target):
        return target
    joined = join(dirname(file), target)
    return joined if is_address(joined) else Path(joined).as_posix()  # without ./ and //


def _opened(place: str) -> AbstractContextManager[IO[bytes]]:
    if not is_address(place):
        if Path(place).exists() and not Path(place).is_file():
            raise ValueError("it is not a regular file")  # a pipe could block
        return Path(place).open("rb")
    file_system, path = open_address(place)
    file: IO[bytes] = file_system.open(path)
    return file


@contextmanager
def _one_line_errors(action: str, place: str) -> Iterator[None]:
    """Turn any exception into a SqueezeError of one line."""
    try:
        yield
    except FileNotFoundError:
        silent = ", or no server that answers" if is_address(place) else ""
        raise SqueezeError(f"There is no {place}{silent}: correct the name.") from None
    except Exception as error:  # each driver has exceptions of its own
        raise SqueezeError(
            f"Cannot {action} {place} ({one_line(error)}): replace it, or leave it out."
        ) from error
