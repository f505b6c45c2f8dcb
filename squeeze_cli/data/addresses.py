"""Reading of files, and of parts of files, by path or by an address that fsspec opens."""

import time
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from squeeze_cli.data.reading import read_content
from squeeze_cli.errors import SqueezeError, one_line

# A failed request is repeated after these pauses.
PAUSES_S = (0.5, 2.0)
# Timeouts for the connection, and for a server that stops sending.
CONNECT_S, SILENCE_S = 5, 10
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


def is_address(place: str) -> bool:
    """Return whether a place is an address, such as s3://bucket/photos, and not a local path."""
    return "://" in place


def open_address(address: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of an address, and the path in it.

    Raises SqueezeError for an unknown protocol, or one whose driver is not installed.
    """
    protocol = address.partition("://")[0]
    options = {}
    if protocol in ("http", "https"):
        from aiohttp import ClientTimeout

        limits = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        options = {"client_kwargs": {"timeout": limits}}
    try:
        file_system, path = url_to_fs(address, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        fix = f'`pip install "squeeze-cli[{extra}]"`' if extra else "install its driver"
        raise SqueezeError(f"Cannot open {address} ({one_line(error)}): {fix}.") from None
    except Exception as error:  # each driver has exceptions of its own
        raise SqueezeError(
            f"Cannot open {address} ({one_line(error)}): correct it, or the settings of its driver."
        ) from error
    return file_system, path


def read_bytes(place: Path | str, start: int = 0, size: int | None = None) -> bytes:
    """Return the bytes of a file, or `size` bytes from `start` on; the file is opened once.

    Raises OSError where it cannot be read, and ValueError where a part has another size than `size`.
    """
    if is_address(str(place)):
        content = _fetch(str(place), start or None, None if size is None else start + size)
    elif size is None:
        return read_content(Path(place))
    else:
        with Path(place).open("rb") as file:
            file.seek(start)
            content = file.read(size)
    if size is not None and len(content) > size:
        raise ValueError("its server sends whole files in place of parts: download the archive")
    if size is not None and len(content) != size:
        raise ValueError(f"{len(content)} bytes came in place of {size}")
    return content


def _fetch(address: str, start: int | None, end: int | None) -> bytes:
    file_system, path = open_address(address)
    for pause in (*PAUSES_S, None):
        try:
            content: bytes = file_system.cat_file(path, start=start, end=end)
            return content
        except Exception as error:  # each driver has exceptions of its own
            if isinstance(error, FileNotFoundError):
                raise
            refused = 400 <= getattr(error, "status", 0) < 500
            if pause is None or refused or isinstance(error, PermissionError | TimeoutError):
                raise OSError(one_line(error)) from error
            time.sleep(pause)
    raise AssertionError("the last pause is None")
