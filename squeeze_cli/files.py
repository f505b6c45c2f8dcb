"""Reading of small files, and writing of files atomically: each is complete or absent.

A file is written under another name in its folder, then renamed.
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
# Pattern of the names of files during writing; a process that is killed leaves such files.
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

    Raises OSError where the file cannot be read, and ValueError, with the reason, for a file that is
    longer than `most_bytes`, has another encoding, or is a pipe or a device, which could block.
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
    """Raise UsageError for a file that would be overwritten, but was not written by squeeze.

    Files of squeeze contain `mark` near their beginning. An empty file may be overwritten.
    """
    # `Path.is_file` raises for a long name. A link itself is replaced, not its target.
    if isfile(path) and not path.is_symlink() and path.stat().st_size:  # noqa: PTH113
        with path.open("rb") as file:
            if mark.encode() not in file.read(2048):
                raise UsageError(f"{path} was not written by this command: name another file.")


def read_json(path: Path) -> dict[str, object]:
    """Return the JSON object in a file.

    Raises as `read_text`, and ValueError for a text that is no JSON object or has a key twice.
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
    """Open a temporary file for writing, which replaces `path` when the block ends without an error.

    A reader sees the old file or the new one, also after a loss of power. A link itself is replaced,
    not its target. `mode` holds the new file's permissions, less the umask; 0o600 is for secrets.

    Raises SqueezeError, which names the path and the `fix`, where `path` is not a regular file, such as
    a folder, /dev/null or `-`, or cannot be written, as on a full disk. The old file then stays.
    """
    try:
        if str(path) == "-" or (path.exists() and _is_special(path)):
            raise SqueezeError(
                f"{path} is not a regular file and is not replaced: name another file."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without the file's own name, which may already have the greatest length.
        temporary = path.with_name(f".squeeze-{os.urandom(4).hex()}.part")
        try:
            temporary.touch(mode, exist_ok=False)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # or a loss of power could leave an empty file
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        fix = _FIXES.get(error.errno or 0, fix)
        raise SqueezeError(f"Cannot write {path} ({error.strerror or error}): {fix}") from error
    _sync_folder(path.parent)


def write_atomically(
    path: Path, content: str | bytes | memoryview, mode: int = 0o666, fix: str = ANOTHER_PLACE
) -> None:
    """Write `content`, in UTF-8 with lone surrogates escaped, to a file with `written_atomically`."""
    encoded = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    with written_atomically(path, mode, fix) as file:
        file.write(encoded)


@contextmanager
def locked(folder: Path, fix: str, name: str = LOCK_NAME) -> Iterator[None]:
    """Hold the lock of `folder`, a file called `name`, while the block runs.

    The folder is made if it is missing, and removed again if the block writes nothing. The operating
    system releases the lock when the process ends in any way. Raises SqueezeError where another process
    holds the lock, with the `fix`, or where the folder cannot be written.
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
        with suppress(OSError):  # the folder is not empty
            for path in made:
                path.rmdir()


def remove_parts(folders: Iterable[Path]) -> None:
    """Remove the unfinished files of killed processes from folders that this process has locked."""
    for folder in folders:
        for part in folder.glob(".squeeze-*.part"):
            with suppress(OSError):
                part.unlink()


def _is_special(path: Path) -> bool:
    """Return whether `path` is not a regular file, or leads through /proc to an open file.

    /dev/stdout leads through /proc, even if stdout is redirected to a regular file.
    """
    while path.is_symlink():
        if path.parent.resolve().is_relative_to("/proc"):
            return True
        path = path.parent / path.readlink()
    return not path.is_file()


def _sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk, where the file system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
