"""Data sets in archives: each is downloaded once, and unpacked completely or not at all."""

import http.client
import os
import re
import shutil
import socket
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from posixpath import splitext

from filelock import FileLock
from torchvision.datasets.utils import download_url, extract_archive

from squeeze_cli.data.finding import IMAGE_SUFFIXES, files_below
from squeeze_cli.data.reading import read_entries, same_name
from squeeze_cli.data.samples import FileSample
from squeeze_cli.data.sources import DataSource, Listing
from squeeze_cli.errors import SqueezeError, one_line

STALL_SECONDS = 20.0  # timeout of a connection that sends no bytes
# Name of the sample and file, by spellings of the name.
NamedFiles = dict[str, tuple[str, Path]]
# Archives are unpacked in this folder. A process that is killed before the end leaves it behind.
UNPACKING = ".unpacking"
# torchvision reports a wrong checksum and too many redirects as RuntimeError.
_DOWNLOAD_ERRORS = (
    OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error,
)  # fmt: skip


class ListedSource(DataSource):
    """Base of data sets that are distributed in archives, and whose splits are lists of names.

    Missing data are downloaded, unless the folder of images has files, which may be the user's own.
    Unpacking replaces no file.

    Attributes:
        title: Name of the data set in messages.
        numbers: Number of whole numbers that may follow a name in its line.
        alternative: Hint at the end of the message on missing data.
        folder: Folder that the archives are downloaded to and unpacked in.
        images, masks: Folders of images and of masks.
        lists: The list files of the images for training and for the test.
        archives: URL and MD5 sum of each archive.
    """

    title: str
    numbers = 0
    alternative = ""
    folder: Path
    images: Path
    masks: Path
    lists: tuple[Path, Path]
    archives: Sequence[tuple[str, str]]

    def listing(self, download: bool = True) -> Listing:
        """List the official splits in the order of their lists; single images may be missing or broken.

        Raises SqueezeError if the data are incomplete and cannot be downloaded, or if a list cannot be
        read.
        """
        for place in (self.folder, *self.folder.parents):
            if place.exists() and not place.is_dir():
                raise SqueezeError(f"{place} is not a folder: check --data-dir.")
        found, error = self._find(), None
        if isinstance(found, str) and download and self._may_unpack():
            error = self._download()
            found = self._find()
        if isinstance(found, Listing):
            return found
        files, failed = " and ".join(url for url, _ in self.archives), ""
        if error is not None:
            reason = one_line(getattr(error, "reason", None) or error)
            failed = f" and could not be downloaded ({reason})"
        raise SqueezeError(
            f"{self.title} in {self.folder} is not complete: {found}{failed}. Add what is missing, or "
            f"put {files} there: the next run unpacks them, and replaces no file. "
            f"{self.alternative}".rstrip()
        ) from error

    def _find(self) -> Listing | str:
        """List the splits, or return a text on the missing files."""
        if (self.folder / UNPACKING).exists():
            return "they were not unpacked to the end"
        if lost := [path for path in self.lists if not path.exists()]:
            return f"{lost[0]} is missing"
        images = _files_by_name(self.images, ".jpg")
        masks = dict(_files_by_name(self.masks, ".png").values())  # by the names of samples
        splits = [self._listed(path, images, masks) for path in self.lists]
        for path, samples in zip(self.lists, splits, strict=True):
            for places in zip(
                *((each.image_path, str(each.mask_path)) for each in samples), strict=True
            ):
                if not any(map(os.path.isfile, places)):  # `is_file` raises for long names
                    return f"no file that {path} names is there, such as {places[0]}"
        return Listing(tuple(splits[0]), test=tuple(splits[1]))

    def _listed(self, path: Path, images: NamedFiles, masks: dict[str, Path]) -> list[FileSample]:
        """Read the names in a list; raises SqueezeError for a line that cannot be a name."""
        samples = []
        for number, line in read_entries(path):
            name = re.sub(rf"(\s+\d+){{{self.numbers}}}$", "", line)
            stem, suffix = splitext(name)
            spellings = [line, name, stem] if suffix.lower() in IMAGE_SUFFIXES else [line, name]
            found = next((s for s in map(same_name, spellings) if s in images), None)
            outside = name.startswith("/") or ".." in PurePosixPath(name).parts
            if found is None and (outside or re.search(r"\s", name)):
                raise SqueezeError(
                    f"{path}, line {number}: {line[:60]!r} names no file in {self.images}: correct or "
                    "remove the line."
                )
            name, image = images.get(found or "", (name, self.images / f"{name}.jpg"))
            mask = masks.get(same_name(name), self.masks / f"{name}.png")
            samples.append(FileSample(name, image, mask))
        return samples

    def _may_unpack(self) -> bool:
        """Return whether there are no images, all archives are there, or unpacking was interrupted."""
        there = [(self.folder / Path(url).name).exists() for url, _ in self.archives]
        interrupted = (self.folder / UNPACKING).exists()
        empty = not (self.images.is_dir() and any(self.images.iterdir()))
        return interrupted or all(there) or empty

    def _download(self) -> BaseException | None:
        """Download archives that are not in the folder, and unpack all; return the error if this fails.

        Of several processes, one downloads and the others wait.
        """
        previous = socket.getdefaulttimeout()
        # torchvision opens its connections without a timeout, so only the default can set one.
        socket.setdefaulttimeout(STALL_SECONDS)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".download.lock"):
                if isinstance(self._find(), str):
                    for url, md5 in self.archives:
                        download_url(url, self.folder, md5=md5)
                    self._unpack()
        except _DOWNLOAD_ERRORS as error:
            return error
        finally:
            socket.setdefaulttimeout(previous)
        return None

    def _unpack(self) -> None:
        """Unpack into a separate folder, then move the files, except those that exist already."""
        unpacked = self.folder / UNPACKING
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.unlink(missing_ok=True)  # earlier versions left a file of this name
        for url, _ in self.archives:
            extract_archive(self.folder / Path(url).name, unpacked)
        for source in [path for path in unpacked.rglob("*") if path.is_file()]:
            target = self.folder / source.relative_to(unpacked)
            if not os.path.lexists(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
        shutil.rmtree(unpacked)


def _files_by_name(folder: Path, usual: str) -> NamedFiles:
    """Return the images below a folder by their paths there, with and without suffix.

    The name of a sample has no suffix, unless there is another image with the same stem, and the `usual`
    suffix or an earlier path.
    """
    below = files_below(folder)[0] if folder.is_dir() else []
    below = [path for path in below if path.suffix.lower() in IMAGE_SUFFIXES]
    below.sort(key=lambda path: (path.suffix != usual, path.suffix.lower() != usual, path))
    named: NamedFiles = {}
    for path in below:
        whole = same_name(path.as_posix())
        stem = whole.removesuffix(path.suffix)
        name = whole if stem in named else stem
        named[whole] = named[name] = (name, folder / path)
    return named
