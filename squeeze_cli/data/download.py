"""Downloads of data sets: each archive is downloaded once, and unpacked completely or not at all."""

import http.client
import os
import shutil
import socket
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock
from torchvision.datasets.utils import download_url, extract_archive

from squeeze_cli.errors import SqueezeError

STALL_SECONDS = 20.0  # timeout of a connection that sends no bytes
# Archives are unpacked in this folder. A process that is killed before the end leaves it behind.
UNPACKING = ".unpacking"
# torchvision reports a wrong checksum and too many redirects as RuntimeError.
_DOWNLOAD_ERRORS = (
    OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error,
)  # fmt: skip


def fetch(
    folder: Path, archives: Sequence[tuple[str, str]], is_complete: Callable[[], bool],
    message: Callable[[BaseException], str],
) -> None:  # fmt: skip
    """Download archives, given by URL and MD5 sum, into a folder and unpack them there.

    An archive in the folder is not downloaded again. Of several processes, one downloads and the others
    wait. Raises SqueezeError with the `message` of the exception that stopped it.
    """
    previous = socket.getdefaulttimeout()
    # torchvision opens its connections without a timeout, so only the default can set one.
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):
            if not is_complete():
                for url, md5 in archives:
                    download_url(url, folder, md5=md5)
                _unpack(folder, [folder / Path(url).name for url, _ in archives])
    except _DOWNLOAD_ERRORS as error:
        raise SqueezeError(message(error)) from error
    finally:
        socket.setdefaulttimeout(previous)


def _unpack(folder: Path, archives: Sequence[Path]) -> None:
    """Unpack into a separate folder, then move the files, except those that exist already."""
    unpacked = folder / UNPACKING
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.unlink(missing_ok=True)  # earlier versions left a file of this name
    for archive in archives:
        extract_archive(archive, unpacked)
    for source in [path for path in unpacked.rglob("*") if path.is_file()]:
        target = folder / source.relative_to(unpacked)
        if not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
    shutil.rmtree(unpacked)
