"""Writing of files that are complete or absent: they are written beside their place, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from squeeze_cli.errors import SqueezeError


@contextmanager
def replacing(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it replaces `path`, else it is removed.

    The rename is atomic on one file system: a reader sees the old file or the new one.

    Args:
        path: the file to write or replace.
        mode: its permissions, 0o600 for secrets; None takes the usual ones.

    Raises:
        SqueezeError: `path` exists and is no regular file, such as a folder or /dev/null.
    """
    if path.exists() and not path.is_file():
        raise SqueezeError(f"{path} is no regular file and is not replaced: name another file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner may read; give them the usual mode instead.
        if mode is None:
            umask = os.umask(0)
            os.umask(umask)
            mode = 0o666 & ~umask
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str, mode: int | None = None) -> None:
    """Write `text` as UTF-8 with `replacing`."""
    with replacing(path, mode) as temporary:
        temporary.write_text(text, encoding="utf-8")
