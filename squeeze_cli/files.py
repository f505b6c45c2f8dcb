"""Writing of files that are complete or absent: they are written beside their place, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from squeeze_cli.errors import SqueezeError


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it replaces `path`, else it is removed.

    The rename is atomic on one file system: a reader sees the old file or the new one. `mode` has
    the new file's permissions, less the umask; 0o600 is for secrets. Raises SqueezeError where
    `path` exists and is no regular file, such as a folder or /dev/null.
    """
    if path.exists() and not path.is_file():
        raise SqueezeError(f"{path} is no regular file and is not replaced: name another file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name may be as long as the file system allows: the temporary one keeps its beginning.
    begin = os.fsencode(path.name)[:200].decode(errors="ignore")
    temporary = path.with_name(f".{begin}.{os.urandom(4).hex()}.part")
    temporary.touch(mode, exist_ok=False)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str, mode: int = 0o666) -> None:
    """Write `text` as UTF-8 with `replacing`."""
    with replacing(path, mode) as temporary:
        temporary.write_text(text, encoding="utf-8")
