"""Lists of names: text files with one name per line, and data sets whose splits are such lists."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Self

from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.addresses import read_bytes
from squeeze_cli.data.download import UNPACKING, fetch
from squeeze_cli.data.finding import IMAGE_SUFFIXES, files_below
from squeeze_cli.data.samples import FileSample
from squeeze_cli.data.sources import DataSource, Listing
from squeeze_cli.errors import SqueezeError, one_line


def read_lines(path: Path | str) -> list[str]:
    """Return the lines of a text file at a path or address; a byte-order mark is ignored.

    Raises SqueezeError, which names the file, where it cannot be read or is not UTF-8.
    """
    try:
        content = read_bytes(path)
        if b"\0" in content:
            raise ValueError("it is UTF-16 or no text")
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise SqueezeError(
            f"Cannot read {path} ({error}): make it a readable file of UTF-8 text."
        ) from None
    return re.split(r"\r\n|\r|\n", text.removesuffix("\n").removesuffix("\r"))


def read_entries(path: Path | str) -> list[tuple[int, str]]:
    """Return number and stripped text of each line that is not blank and does not begin with `#`.

    Raises SqueezeError as `read_lines` does, and where there is no such line.
    """
    stripped = ((number, line.strip()) for number, line in enumerate(read_lines(path), start=1))
    entries = [(number, line) for number, line in stripped if line and not line.startswith("#")]
    if not entries:
        raise SqueezeError(f"{path} names nothing: write a name on each line.")
    return entries


def same_name(name: str) -> str:
    """Return a name in composed Unicode form and without `./`, to compare two spellings."""
    plain = PurePosixPath(name).as_posix() if "/" in name else name
    return unicodedata.normalize("NFC", plain)


class NamedFiles:
    """The images below a folder by name; of images with the same stem, the usual `suffix` comes first."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self._suffix = folder, suffix
        below = files_below(folder)[0] if folder.is_dir() else []
        below = [path for path in below if path.suffix.lower() in IMAGE_SUFFIXES]
        below.sort(key=lambda path: (path.suffix != suffix, path.suffix.lower() != suffix, path))
        self._by_name = {unicodedata.normalize("NFC", path.as_posix()): path for path in below}
        self._by_stem: dict[str, Path] = {}
        for name, path in self._by_name.items():
            self._by_stem.setdefault(name.removesuffix(path.suffix), path)

    def find(self, name: str) -> tuple[str, Path] | None:
        """Return the name of a sample and its file for a `name` with or without suffix, or None.

        The name has no suffix, unless another file with the same stem is the usual one.
        """
        key = same_name(name)
        if key in self._by_stem:
            return key, self.folder / self._by_stem[key]
        stem, _, suffix = key.rpartition(".")
        if f".{suffix}".lower() not in IMAGE_SUFFIXES or stem not in self._by_stem:
            return None
        usual = self._by_stem[stem]
        path = self._by_name.get(key, usual)
        return stem if path == usual else key, self.folder / path

    def path(self, stem: str) -> Path:
        """Return the file with this stem, or the usual path of such a file if there is none."""
        found = self._by_stem.get(same_name(stem), f"{stem}{self._suffix}")
        return self.folder / found


class ListedSource(DataSource):
    """Base of data sets that are distributed in archives, and whose splits are lists of names.

    Missing data are downloaded, unless `download` is False or the folder of images has files, which may
    be the user's own. Unpacking replaces no file.

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

    def __init__(self, data_dir: Path, download: bool = True) -> None:
        self.folder, self.download = data_dir, download

    @classmethod
    def of(cls, config: DataConfig) -> Self:
        """Return the source in the data folder."""
        return cls(Path(config.data_dir))

    def listing(self) -> Listing:
        """List the official splits in the order of their lists; single images may be missing or broken.

        Raises SqueezeError if the data are incomplete and cannot be downloaded, or if a list cannot be
        read.
        """
        for place in (self.folder, *self.folder.parents):
            if place.exists() and not place.is_dir():
                raise SqueezeError(f"{place} is not a folder: check --data-dir.")
        found = self._find()
        if isinstance(found, str) and self.download and self._may_unpack():
            fetch(
                self.folder, self.archives, lambda: isinstance(self._find(), Listing), self._missing
            )
            found = self._find()
        if isinstance(found, str):
            raise SqueezeError(self._missing())
        return found

    def _find(self) -> Listing | str:
        """List the splits, or return a text on the missing files."""
        if (self.folder / UNPACKING).exists():
            return "they were not unpacked to the end"
        if lost := [path for path in self.lists if not path.exists()]:
            return f"{lost[0]} is missing"
        images, masks = NamedFiles(self.images, ".jpg"), NamedFiles(self.masks, ".png")
        splits = [self._listed(path, images, masks) for path in self.lists]
        for path, samples in zip(self.lists, splits, strict=True):
            for places in zip(
                *((each.image_path, str(each.mask_path)) for each in samples), strict=True
            ):
                if not any(map(os.path.isfile, places)):  # `is_file` raises for long names
                    return f"no file that {path} names is there, such as {places[0]}"
        return Listing(tuple(splits[0]), test=tuple(splits[1]))

    def _listed(self, path: Path, images: NamedFiles, masks: NamedFiles) -> list[FileSample]:
        """Read the names in a list; raises SqueezeError for a line that cannot be a name."""
        samples = []
        for number, line in read_entries(path):
            name = re.sub(rf"(\s+\d+){{{self.numbers}}}$", "", line)
            found = images.find(line) or images.find(name)
            outside = name.startswith("/") or ".." in PurePosixPath(name).parts
            if found is None and (outside or re.search(r"\s", name)):
                raise SqueezeError(
                    f"{path}, line {number}: {line[:60]!r} names no file in {images.folder}: correct or "
                    "remove the line."
                )
            name, image = found or (name, images.path(name))
            samples.append(FileSample(name, image, masks.path(name)))
        return samples

    def _may_unpack(self) -> bool:
        """Return whether there are no images, all archives are there, or unpacking was interrupted."""
        there = [(self.folder / Path(url).name).exists() for url, _ in self.archives]
        interrupted = (self.folder / UNPACKING).exists()
        empty = not (self.images.is_dir() and any(self.images.iterdir()))
        return interrupted or all(there) or empty

    def _missing(self, error: BaseException | None = None) -> str:
        files, failed = " and ".join(url for url, _ in self.archives), ""
        if error is not None:
            reason = one_line(getattr(error, "reason", None) or error)
            failed = f" and could not be downloaded ({reason})"
        return (
            f"{self.title} in {self.folder} is not complete: {self._find()}{failed}. "
            f"Add what is missing, or put {files} there: the next run unpacks them, and replaces no "
            f"file. {self.alternative}".rstrip()
        )
