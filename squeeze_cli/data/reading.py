"""Reading of image and mask files: every error is one line."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError, one_line

DIGEST_BYTES = 16
# Above the uncompressed size of any image that Pillow decodes.
MOST_BYTES = 2**31
# Exceptions that Pillow raises on broken files: OSError for truncated or unknown files, SyntaxError for
# PNG, and nearly all of the others for TIFF.
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


class UnreadableImageError(SqueezeError):
    """An image or mask file is missing or broken, or the two do not fit together."""


@contextmanager
def reading(kind: str, path: Path | str) -> Iterator[None]:
    """Turn exceptions of reading and decoding a file into UnreadableImageError."""
    try:
        yield
    except FileNotFoundError:
        raise UnreadableImageError(
            f"The {kind} {path} is missing: put it there or take it off the list."
        ) from None
    except DECODER_ERRORS as error:
        reason = one_line(error)
        if isinstance(error, UnidentifiedImageError):  # its message shows an object's address
            reason = "it is in no image format that can be read, or is empty"
        raise UnreadableImageError(
            f"Cannot read the {kind} {path} ({reason}): replace or remove it."
        ) from error


def read_content(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises ValueError for a pipe or device, which may never end, and for more than `MOST_BYTES`.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES // 2**30} GiB")
    return path.read_bytes()


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names as a part of a sentence."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def stamp_of(path: Path) -> str:
    """Return size and modification time of a file, or an empty text if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def warn_of_skipped(skipped: Sequence[tuple[str, str]], reporter: Reporter) -> None:
    """Warn of the first images that cannot be read, each with its reason, and of their number."""
    for name, reason in skipped[:5]:
        reporter.warn(f"Skipped {name}: {reason}")
    if len(skipped) > 5:
        reporter.warn(f"Skipped {len(skipped)} images in all.")
