"""Oxford-IIIT Pet: 7,349 photographs of cats and dogs with their trimaps.

Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012;
https://www.robots.ox.ac.uk/~vgg/data/pets/ (CC BY-SA 4.0).
"""

from __future__ import annotations

import http.client
import socket
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchvision.datasets import OxfordIIITPet
from torchvision.datasets.utils import download_url, extract_archive

from squeeze_cli.data.samples import FileSample
from squeeze_cli.errors import SqueezeError

SITE = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
SPLITS = ("trainval", "test")
# Seconds without a single byte after which a connection counts as dead.
STALL_SECONDS = 20.0
# There while the archives are being unpacked: a process killed meanwhile leaves it behind.
_UNPACKING = ".unpacking"
# URLError, timeouts and a full disk are OSErrors; torchvision reports a wrong checksum and too many
# redirects as RuntimeError.
_DOWNLOAD_ERRORS = (
    OSError,
    RuntimeError,
    EOFError,
    http.client.HTTPException,
    tarfile.TarError,
    zlib.error,
)


class OxfordPetSource:
    """The photographs below `<data_dir>/oxford-iiit-pet`, in torchvision's layout.

    Args:
        data_dir: the folder above `oxford-iiit-pet`.
        download: fetch the two archives (about 800 MB) when the data are missing.
    """

    def __init__(self, data_dir: Path, download: bool = True) -> None:
        self.data_dir = data_dir
        self.download = download

    def samples(self, split: str) -> list[FileSample]:
        """List a split, 'trainval' or 'test', in the order of its list file.

        A listed file may be missing or broken; `find_readable` finds out.

        Raises:
            SqueezeError: the data are not there, or only in part, and cannot be downloaded; or the
                list file holds something else.
        """
        folder = self.data_dir / "oxford-iiit-pet"
        try:
            with _stalls_end_after(STALL_SECONDS):
                dataset = _CheckedOxfordPet(
                    self.data_dir, split, target_types="segmentation", download=self.download
                )
        except _DOWNLOAD_ERRORS as error:
            raise SqueezeError(
                _missing_message(folder, error if self.download else None)
            ) from error
        except ValueError as error:
            raise SqueezeError(
                f"A line of {folder / 'annotations' / split}.txt is no 'name class species breed': "
                "delete the file and run again to get it anew."
            ) from error
        return dataset.file_samples()


class _CheckedOxfordPet(OxfordIIITPet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's data set, but a half-unpacked archive does not count as the whole.

    torchvision itself is content with two folders of any content.
    """

    def file_samples(self) -> list[FileSample]:
        return [
            FileSample(image_path.stem, image_path, trimap_path)
            for image_path, trimap_path in zip(self._images, self._segs, strict=True)
        ]

    def _check_exists(self) -> bool:
        return not (self._base_folder / _UNPACKING).exists() and all(
            self._has_files_of(self._anns_folder / f"{split}.txt") for split in SPLITS
        )

    def _has_files_of(self, list_path: Path) -> bool:
        """Whether the list is there and at least one of its images and of its trimaps."""
        if not list_path.is_file():
            return False
        lines = list_path.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.split()[0] for line in lines if line.strip()]
        return any((self._images_folder / f"{name}.jpg").is_file() for name in names) and any(
            (self._segs_folder / f"{name}.png").is_file() for name in names
        )

    def _download(self) -> None:
        if self._check_exists():
            return
        # Both archives first, each checked against its MD5 sum: an interrupted download is fetched
        # again, a finished one (or one that the user put there) is not.
        for url, md5 in self._RESOURCES:
            download_url(url, self._base_folder, md5=md5)
        marker = self._base_folder / _UNPACKING
        marker.touch()
        for url, _ in self._RESOURCES:
            extract_archive(self._base_folder / url.rsplit("/", 1)[1], self._base_folder)
        marker.unlink()


@contextmanager
def _stalls_end_after(seconds: float) -> Iterator[None]:
    # torchvision opens its connections without a timeout, so the default is the only handle.
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


def _missing_message(folder: Path, error: BaseException | None) -> str:
    why = ""
    if error is not None:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        why = f" and could not be downloaded ({reason or type(error).__name__})"
    return (
        f"The Oxford-IIIT Pet data are not in {folder}{why}: put images.tar.gz and "
        f"annotations.tar.gz from {SITE} there (torchvision unpacks them), "
        "or use --dataset synthetic, which needs no data."
    )
