"""The same images in all kinds of places: folders, lists, archives, and addresses of these."""

from __future__ import annotations

import re
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread

import fsspec

from tests.pets import noise_image

# Paths as they are sorted, and the names that they give.
PATHS = {"a.jpg": "a", "below/b.png": "below/b", "below/c.png": "below/c", "d.webp": "d"}


def write_images(folder: Path) -> Path:
    """Write `PATHS`, each of another size, and a file that is no image."""
    (folder / "below").mkdir(parents=True)
    for seed, path in enumerate(PATHS):
        noise_image(40 + seed, 31, seed).save(folder / path)
    (folder / "notes.json").write_text("{}")
    return folder


def write_tar(path: Path, files: Mapping[str, bytes], **options: int) -> Path:
    """Write an archive of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    return path


class _Files(SimpleHTTPRequestHandler):
    """Files of a folder, by ranges too; what lies below `ill/` fails twice, then comes.

    A file comes byte by byte as long as `is_slow` says so of its path.
    """

    failures: dict[str, int] = {}  # noqa: RUF012 - of the class, a handler serves one request

    def __init__(self, *arguments, is_slow: Callable[[str], bool], **options) -> None:
        self.is_slow = is_slow
        super().__init__(*arguments, **options)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if self.path.startswith("/ill/"):
            path = Path(self.translate_path(self.path.removeprefix("/ill")))
            self.failures[self.path] = self.failures.get(self.path, 0) + 1
            if self.failures[self.path] < 3:
                return self.send_error(503)
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), int(wanted[2])) if wanted else (0, len(content) - 1)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content[first : last + 1])))
        self.end_headers()
        content = content[first : last + 1]
        with suppress(ConnectionError):
            while len(content) > 1 and self.is_slow(self.path):
                self.wfile.write(content[:1])
                content = content[1:]
                time.sleep(0.1)
            self.wfile.write(content)


@contextmanager
def served(folder: Path, is_slow: Callable[[str], bool] = lambda path: False) -> Iterator[str]:
    """Serve a folder while the block runs; gives its address."""
    handler = partial(_Files, directory=str(folder), is_slow=is_slow)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _lines(folder: Path, name: str, line: Callable[[str, str], str]) -> Path:
    text = "\n".join(line(path, name) for path, name in PATHS.items())
    (folder / name).write_text(f"# images\n\n{text}\n")
    return folder / name


def places(folder: Path, images: Path, server: str) -> dict[str, str]:
    """Bring the images of `images` to places of all kinds below `folder`, which `server` serves."""
    contents = {path: (images / path).read_bytes() for path in PATHS}
    halves = dict(list(contents.items())[:2]), dict(list(contents.items())[2:])
    for number, half in enumerate(halves):
        write_tar(folder / "shards" / f"{number:03d}.tar", half)
    write_tar(folder / "all.tar", {f"./{path}": content for path, content in contents.items()})
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/{folder.name}/images/{path}": content for path, content in contents.items()})
    memory.pipe(f"/{folder.name}/all.tar", (folder / "all.tar").read_bytes())
    near = folder / "copied"
    for path, content in contents.items():
        (near / path).parent.mkdir(parents=True, exist_ok=True)
        (near / path).write_bytes(content)
    return {
        "list of paths": str(_lines(near, "paths.txt", lambda path, _: path)),
        "list of names": str(
            _lines(folder, "names.lst", lambda path, name: f"{name}\t{near / path}")
        ),
        "list of addresses": str(
            _lines(folder, "web.txt", lambda path, name: f"{name}\t{server}/copied/{path}")
        ),
        "list at an address": f"{server}/copied/paths.txt",
        "list of archives": str(_text(folder / "archives.txt", "shards/000.tar\nshards/001.tar\n")),
        "archive": str(folder / "all.tar"),
        "archives": f"{folder}/shards/{{000..001}}.tar",
        "folder of archives": str(folder / "shards"),
        "archive at an address": f"{server}/all.tar",
        "file address": f"file://{near}",
        "memory": f"memory://{folder.name}/images",
        "archive in memory": f"memory://{folder.name}/all.tar",
    }


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
