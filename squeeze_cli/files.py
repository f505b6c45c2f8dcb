"""Reading of small files, and writing of files that are complete or absent.

Files are written beside their place, then renamed.
"""

import errno
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from os.path import isfile
from pathlib import Path
from typing import BinaryIO

from squeeze_cli.errors import SqueezeError, UsageError

# The manifest of a million images has 100 MB.
LARGEST_JSON_BYTES = 2**28
# Pattern of the names of files that are being written; a process that is killed leaves them.
PART_PATTERN = r"\.squeeze-[0-9a-f]{8}\.part"
LOCK_NAME = ".lock"
FIGURE_MARK = "drawn by squeeze"  # in the first bytes of each picture
ANOTHER_PLACE = "make room there, or name another place."
_FIXES = {
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`).",
    errno.ENAMETOOLONG: "choose a shorter name.",
}


def read_text(path: Path, most_bytes: int) -> str:
    """Return the UTF-8 text of a regular file, without a byte-order mark.

    Raises OSError where it cannot be read, and ValueError, with the reason, for a file that is longer,
    has another encoding, or is a pipe or a device, which could block or never end.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not encoded in UTF-8") from None


def require_own(path: Path, mark: str) -> None:
    """Raise UsageError for a file, not empty, that lacks `mark`, which squeeze's own begin with."""
    # `Path.is_file` raises for a long name. A link is replaced, not the file that it names.
    if isfile(path) and not path.is_symlink() and path.stat().st_size:  # noqa: PTH113
        with path.open("rb") as file:
            if mark.encode() not in file.read(2048):
                raise UsageError(f"{path} was not written by this command: name another file.")


def read_json(path: Path) -> dict[str, object]:
    """Return the object in a JSON file, which has no key twice.

    Raises as `read_text`, and ValueError for other text.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        content = dict(pairs)
        if len(content) < len(pairs):
            name = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"{name!r} occurs twice")
        return content

    try:
        content = json.loads(read_text(path, LARGEST_JSON_BYTES), object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


@contextmanager
def written_atomically(
    path: Path, mode: int = 0o666, fix: str = ANOTHER_PLACE
) -> Iterator[BinaryIO]:
    """Open a file beside `path` for writing, which takes its place when the block ends without an error.

    A reader sees the old file or the new one, also after the machine lost its power. A link is
    replaced, not the file that it names. `mode` has the new file's permissions, less the umask;
    0o600 is for secrets.

    Raises SqueezeError, which names the place and the `fix`, where `path` is not a regular file, such as
    a folder or /dev/null, or cannot be written, as on a full disk. The file that was there then stays.
    """
    try:
        if path.exists() and _is_special(path):
            raise SqueezeError(
                f"{path} is not a regular file and is not replaced: name another file."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not made of the file's own name, which may be as long as names can be.
        temporary = path.with_name(f".squeeze-{os.urandom(4).hex()}.part")
        try:
            temporary.touch(mode, exist_ok=False)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # or the name could outlive the content
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        fix = _FIXES.get(error.errno or 0, fix)
        raise SqueezeError(f"Cannot write {path} ({error.strerror or error}): {fix}") from error
    _sync_folder(path.parent)


def write_atomically(
    path: Path, content: bytes | memoryview, mode: int = 0o666, fix: str = ANOTHER_PLACE
) -> None:
    """Write `content` to a file with `written_atomically`."""
    with written_atomically(path, mode, fix) as file:
        file.write(content)


def write_text_atomically(path: Path, text: str, mode: int = 0o666) -> None:
    """Write `text` as UTF-8 with `write_atomically`."""
    write_atomically(path, text.encode(), mode)


@contextmanager
def locked(folder: Path, fix: str, name: str = LOCK_NAME) -> Iterator[None]:
    """Keep other processes, which do the same, from writing into `folder` while the block runs.

    The lock is a file of this `name`. The folder is made, and removed again where nothing is written.
    The operating system releases the lock when the process ends, however it ends. Raises SqueezeError
    where another process holds the lock, with the `fix`, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / name, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise SqueezeError(
            f"Another process is at work on {folder}: wait for it, or {fix}."
        ) from None
    except (FileExistsError, NotADirectoryError):
        place = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        raise SqueezeError(f"{place} is not a folder: name another place.") from None
    except OSError as error:
        reason = f"{error.strerror or error}): {ANOTHER_PLACE}"
        raise SqueezeError(f"Cannot write into {folder} ({reason}") from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            (folder / name).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # something was written
            for path in made:
                path.rmdir()


def remove_parts(folders: Iterable[Path]) -> None:
    """Remove what killed processes had begun to write in these folders, which this process has locked."""
    for folder in folders:
        for part in folder.glob(".squeeze-*.part"):
            with suppress(OSError):
                part.unlink()


def _is_special(path: Path) -> bool:
    """Whether what is at `path` is not a regular file, or a link of /proc to what is open anyway.

    /dev/stdout is such a link, also where the output goes to a regular file.
    """
    while path.is_symlink():
        if path.parent.resolve().is_relative_to("/proc"):
            return True
        path = path.parent / path.readlink()
    return not path.is_file()


def _sync_folder(folder: Path) -> None:
    """Have the names in `folder` written to the disk, where the file system can do this."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
