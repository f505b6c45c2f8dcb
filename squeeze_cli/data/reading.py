"""Reading of files, by path or by an address that fsspec opens: every error is one line."""

import re
import struct
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from squeeze_cli.console import Reporter
from squeeze_cli.data.addresses import fetch, is_address
from squeeze_cli.errors import SqueezeError, one_line

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


def read_bytes(place: Path | str, start: int = 0, size: int | None = None) -> bytes:
    """Return the bytes of a file, or `size` bytes from `start` on; the file is opened once.

    Raises OSError where it cannot be read, and ValueError where a part has another size than `size`, for
    a pipe or device, which may never end, and for a whole file of more than `MOST_BYTES`.
    """
    path = Path(place)
    if is_address(str(place)):
        content = fetch(str(place), start or None, None if size is None else start + size)
    elif path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    elif size is None and path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES // 2**30} GiB")
    else:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(size)
    if size is not None and len(content) > size:
        raise ValueError("its server sends whole files in place of parts: download the archive")
    if size is not None and len(content) != size:
        raise ValueError(f"{len(content)} bytes came in place of {size}")
    return content


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


def hex_digest(content: bytes | memoryview) -> str:
    """Return the hex BLAKE2b-128 of bytes."""
    return blake2b(content, digest_size=16).hexdigest()


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
