"""Oxford-IIIT Pet: 7,349 photographs of cats and dogs with their trimaps.

Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012;
https://www.robots.ox.ac.uk/~vgg/data/pets/ (CC BY-SA 4.0).
"""

import http.client
import re
import shutil
import socket
import tarfile
import zlib
from pathlib import Path
from typing import Self

from filelock import FileLock
from torchvision.datasets.utils import download_url, extract_archive

from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.drawn_pets import PET_CLASSES
from squeeze_cli.data.samples import FileSample
from squeeze_cli.data.sources import DataSource, Listing
from squeeze_cli.errors import SqueezeError

SITE = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
# The two archives with their MD5 sums.
ARCHIVES = (
    (f"{SITE}data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
    (f"{SITE}data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
)
SPLITS = ("trainval", "test")
STALL_SECONDS = 20.0  # a connection that gives no byte for so long counts as dead
# Archives are unpacked in this folder. A process that is killed meanwhile leaves it behind.
_UNPACKING = ".unpacking"
# torchvision reports a wrong checksum and too many redirects as RuntimeError.
_DOWNLOAD_ERRORS = (
    OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error,
)  # fmt: skip


class OxfordPetSource(DataSource):
    """The photographs below `<data_dir>/oxford-iiit-pet`, in the layout of the archives.

    Missing data are downloaded (about 800 MB), unless `download` is False.
    """

    classes = PET_CLASSES
    stray_share = 0.01  # some trimaps have single pixels of other values
    fix = (
        "Correct the masks, or train on other classes by --dataset folder --images DIR --masks DIR."
    )

    def __init__(self, data_dir: Path, download: bool = True) -> None:
        self.folder = data_dir / "oxford-iiit-pet"
        self.download = download

    @classmethod
    def of(cls, config: DataConfig) -> Self:
        """Return the source in the data folder."""
        return cls(Path(config.data_dir))

    def listing(self) -> Listing:
        """List the official splits; the seed draws the validation images from trainval."""
        return Listing(tuple(self.samples("trainval")), test=tuple(self.samples("test")))

    def samples(self, split: str) -> list[FileSample]:
        """List a split, 'trainval' or 'test', in the order of its list file.

        A listed file may be missing or broken. Raises SqueezeError if the data are incomplete and
        cannot be downloaded, or if a list file cannot be read.
        """
        if self.download and not self._is_complete():
            self._fetch()
        if not self._is_complete():
            raise SqueezeError(self._missing_message())
        return self._listed(split)

    def _listed(self, split: str) -> list[FileSample]:
        images, annotations = self.folder / "images", self.folder / "annotations"
        upper = {path.stem for path in images.glob("*.JPG")}
        return [
            FileSample(
                name,
                images / (f"{name}.JPG" if name in upper else f"{name}.jpg"),
                annotations / "trimaps" / f"{name}.png",
            )
            for name in read_list(annotations / f"{split}.txt")
        ]

    def _is_complete(self) -> bool:
        """Whether both lists are there, each with at least one of its images and of its trimaps."""
        lists = [self.folder / "annotations" / f"{split}.txt" for split in SPLITS]
        if (self.folder / _UNPACKING).exists() or not all(path.is_file() for path in lists):
            return False
        return all(
            any(sample.image_path.is_file() for sample in samples)
            and any(sample.mask_path and sample.mask_path.is_file() for sample in samples)
            for samples in map(self._listed, SPLITS)
        )

    def _fetch(self) -> None:
        previous = socket.getdefaulttimeout()
        # torchvision opens its connections without a timeout, so the default is the only handle.
        socket.setdefaulttimeout(STALL_SECONDS)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".download.lock"):  # one of several processes
                if not self._is_complete():
                    for url, md5 in ARCHIVES:
                        download_url(url, self.folder, md5=md5)  # unless it is there already
                    self._unpack()
        except _DOWNLOAD_ERRORS as error:
            raise SqueezeError(self._missing_message(error)) from error
        finally:
            socket.setdefaulttimeout(previous)

    def _unpack(self) -> None:
        """Unpack into a folder of its own, then move the files; existing list files are kept."""
        unpacked = self.folder / _UNPACKING
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.unlink(missing_ok=True)  # earlier versions left a file of this name
        for url, _ in ARCHIVES:
            extract_archive(self.folder / Path(url).name, unpacked)
        for source in [path for path in unpacked.rglob("*") if path.is_file()]:
            target = self.folder / source.relative_to(unpacked)
            if target.suffix != ".txt" or not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
        shutil.rmtree(unpacked)

    def _missing_message(self, error: BaseException | None = None) -> str:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        reason = reason or type(error).__name__
        why = "" if error is None else f" and could not be downloaded ({reason})"
        return (
            f"The Oxford-IIIT Pet data are not in {self.folder}{why}: put images.tar.gz and "
            f"annotations.tar.gz from {SITE} there (the next run unpacks them), "
            "or use --dataset synthetic, which needs no data."
        )


def read_list(path: Path) -> list[str]:
    """Read the names in a list file: one per line, alone or as 'name class species breed'.

    Blank lines, lines that begin with `#`, a byte-order mark and a suffix `.jpg` are ignored.
    Raises SqueezeError for a malformed line, no name at all, or a file that is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SqueezeError(
            f"Cannot read {path} ({error}): make it a readable file of UTF-8 text."
        ) from None
    names = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) not in (1, 4) or not all(field.isdecimal() for field in fields[1:]):
            raise SqueezeError(
                f"{path}, line {number}: {line.strip()[:60]!r} is neither a name nor 'name class "
                "species breed': correct or remove the line."
            )
        names.append(re.sub(r"\.jpg$", "", fields[0], flags=re.IGNORECASE))
    if not names:
        raise SqueezeError(f"{path} names no image: add names of images, one per line.")
    return names
