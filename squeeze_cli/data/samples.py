"""Samples: photographs and their trimaps, which are read when they are needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from PIL import Image

from squeeze_cli.data.decoding import UnreadableImageError, check_image, read_image, read_trimap
from squeeze_cli.errors import SqueezeError

DIGEST_BYTES = 16
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True)
class Sample(ABC):
    """One photograph and its trimap; picklable, so that it can be sent to worker processes.

    Attributes:
        name: the photograph's name, unique in its data set, such as 'Abyssinian_100'.
    """

    name: str

    @abstractmethod
    def digest(self) -> str:
        """Hex BLAKE2b-128 of the content, 32 characters; paths and times do not count."""

    @abstractmethod
    def load(self) -> tuple[Image.Image, Image.Image | None]:
        """Return the RGB image, and its trimap (mode 'L': 1 pet, 2 background, 3 border) or None.

        Raises:
            UnreadableImageError: a file is missing or broken, or the two differ in size.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise the UnreadableImageError that `load` would, in less time."""


@dataclass(frozen=True)
class FileSample(Sample):
    """A photograph in a file, with or without a trimap in another file."""

    image_path: Path
    mask_path: Path | None = None

    def digest(self) -> str:
        """Hex BLAKE2b-128 of both files' bytes; raises UnreadableImageError if one is missing."""
        content = blake2b(digest_size=DIGEST_BYTES)
        for path in filter(None, (self.image_path, self.mask_path)):
            try:
                data = path.read_bytes()
            except OSError as error:
                raise UnreadableImageError(
                    f"Cannot read {path} ({error.strerror}): replace it or take it off the list."
                ) from error
            # The length tells apart what would be the same bytes split between files elsewhere.
            content.update(len(data).to_bytes(8, "little"))
            content.update(data)
        return content.hexdigest()

    def load(self) -> tuple[Image.Image, Image.Image | None]:
        """Decode both files with `decoding.read_image` and `decoding.read_trimap`."""
        image = read_image(self.image_path)
        return image, self._trimap_of_size(image.size)

    def check(self) -> None:
        """Read the image at an eighth of its size, and the trimap."""
        self._trimap_of_size(check_image(self.image_path))

    def _trimap_of_size(self, size_px: tuple[int, int]) -> Image.Image | None:
        trimap = None if self.mask_path is None else read_trimap(self.mask_path)
        if trimap is not None and trimap.size != size_px:
            raise UnreadableImageError(
                f"The image {self.image_path} has {size_px[0]} x {size_px[1]} pixels, its trimap "
                f"{trimap.size[0]} x {trimap.size[1]}: replace or remove one of them."
            )
        return trimap


def list_images(folder: Path) -> list[FileSample]:
    """List the images in a folder and in all folders below it, sorted by path, without trimaps.

    A sample's name is its path below `folder` without the suffix ('cats/tom'); if two images would
    share a name, both keep the suffix. Hidden files and folders are left out.

    Raises:
        SqueezeError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise SqueezeError(f"There is no folder {folder}: give a folder of images.")
    files = [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
    below = sorted(path.relative_to(folder) for path in files if path.is_file())
    below = [path for path in below if not any(part.startswith(".") for part in path.parts)]
    if not below:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SqueezeError(f"The folder {folder} holds no images: put some there ({suffixes}).")
    uses = Counter(path.with_suffix("") for path in below)
    names = [path if uses[path.with_suffix("")] > 1 else path.with_suffix("") for path in below]
    return [FileSample(n.as_posix(), folder / path) for n, path in zip(names, below, strict=True)]


def find_readable(
    samples: Sequence[Sample], known: Collection[str] = ()
) -> tuple[list[Sample], list[tuple[str, str]]]:
    """Decode samples in threads, but for those whose digests are `known` from an earlier time.

    Returns:
        The usable samples in their order, and (name, reason) for each that was skipped: a file is
        missing or broken, or an image and its trimap differ in size.
    """
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        reasons = list(pool.map(lambda sample: _why_unusable(sample, known), samples))
    usable = [sample for sample, why in zip(samples, reasons, strict=True) if why is None]
    skipped = [
        (s.name.encode(errors="backslashreplace").decode(), why)
        for s, why in zip(samples, reasons, strict=True)
        if why is not None
    ]
    return usable, skipped


def _why_unusable(sample: Sample, known: Collection[str]) -> str | None:
    try:
        sample.name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    try:
        if known and sample.digest() in known:
            return None
    except UnreadableImageError:
        pass  # `check` tells more precisely what is wrong
    try:
        sample.check()
    except UnreadableImageError as error:
        return str(error)
    return None
