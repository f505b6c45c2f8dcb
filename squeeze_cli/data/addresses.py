"""Reading of addresses that fsspec opens, such as s3://bucket/photos."""

import time

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

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


def fetch(address: str, start: int | None, end: int | None) -> bytes:
    """Return the bytes from `start` to `end` at an address; raises OSError where they cannot be read."""
    file_system, path = open_address(address)
    pauses = iter(PAUSES_S)
    while True:
        try:
            return bytes(file_system.cat_file(path, start=start, end=end))
        except FileNotFoundError:
            raise
        except Exception as error:  # each driver has exceptions of its own
            pause = next(pauses, None)
            refused = 400 <= getattr(error, "status", 0) < 500
            if pause is None or refused or isinstance(error, PermissionError | TimeoutError):
                raise OSError(one_line(error)) from error
            time.sleep(pause)
