from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from squeeze_cli.data.samples import FileSample
from tests.pets import cut, noise_image, trimap


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a local server of the files in a folder."""
    handler = partial(_QuietHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def broken_pets(tiny_pets: Path) -> Path:
    """The same with every odd kind of file: three usable, five not."""
    folder = tiny_pets / "oxford-iiit-pet"
    images, trimaps = folder / "images", folder / "annotations" / "trimaps"
    noise_image(47, 31, mode="P").save(images / "Abyssinian_1.jpg", format="PNG")
    noise_image(47, 31, mode="RGBA").save(images / "Abyssinian_2.jpg", format="PNG")
    noise_image(47, 31, mode="L").save(images / "Abyssinian_3.jpg")
    cut(images / "Abyssinian_4.jpg")
    (images / "Abyssinian_5.jpg").unlink()
    cut(trimaps / "Abyssinian_6.png")
    trimap(31, 47).save(trimaps / "Abyssinian_7.png")
    (images / "Abyssinian_8.jpg").write_bytes(b"not an image")
    return tiny_pets


@pytest.fixture
def file_sample(tmp_path: Path) -> Callable[[Image.Image, Image.Image | None], FileSample]:
    """Write an image (and a trimap) without loss, and give the sample."""

    def write(image: Image.Image, mask: Image.Image | None = None) -> FileSample:
        image.save(tmp_path / "image.tiff" if image.mode == "CMYK" else tmp_path / "image.png")
        image_path = next(tmp_path.glob("image.*"))
        if mask is None:
            return FileSample("image", image_path)
        mask.save(tmp_path / "mask.png")
        return FileSample("image", image_path, tmp_path / "mask.png")

    return write
