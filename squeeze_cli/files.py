"""Files that are whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes the place of `path`, else it goes.

    `mode` is the file's permissions (0o600 for secrets); None takes the usual ones.

    The rename is atomic on one file system (POSIX `rename`, Windows `ReplaceFile`): a reader sees
    the old file or the new one, never a half.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner may read; take the usual mode instead.
        if mode is None:
            umask = os.umask(0)
            os.umask(umask)
            mode = 0o666 & ~umask
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str, mode: int | None = None) -> None:
    """Write `text` as UTF-8; the file at `path` is the old one or the new one at every moment."""
    with replacing(path, mode) as temporary:
        temporary.write_text(text, encoding="utf-8")
