"""Samples: photographs with their trimaps, not yet read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from PIL import Image

from squeeze_cli.data.decoding import (
    UnreadableImageError,
    check_image,
    read_image,
    read_trimap,
    require_same_size,
)
from squeeze_cli.data.synthetic.scene import RECIPE_VERSION, render_scene
from squeeze_cli.errors import SqueezeError

__all__ = [
    "FileSample",
    "Sample",
    "SyntheticSample",
    "UnreadableImageError",
    "find_readable",
    "list_images",
]

DIGEST_BYTES = 16
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True)
class Sample(ABC):
    """One photograph and its trimap, not yet read; picklable, so that worker processes get it.

    Attributes:
        name: the photograph's name, unique in its data set, such as 'Abyssinian_100'.
    """

    name: str

    @abstractmethod
    def digest(self) -> str:
        """Hex BLAKE2b-128 of the content (never of a path or a time), 32 characters."""

    @abstractmethod
    def load(self) -> tuple[Image.Image, Image.Image | None]:
        """Give the RGB image and its trimap, mode 'L' with 1 pet, 2 background, 3 border, or None.

        Raises:
            UnreadableImageError: naming the file.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise the UnreadableImageError that `load` would, in less time."""


@dataclass(frozen=True)
class FileSample(Sample):
    """A photograph in a file, with or without a trimap in another; `load` says which kinds."""

    image_path: Path
    mask_path: Path | None = None

    def digest(self) -> str:
        """Hex BLAKE2b-128 of both files' bytes; raises UnreadableImageError when one is gone."""
        content = blake2b(digest_size=DIGEST_BYTES)
        for path in (self.image_path, self.mask_path):
            if path is None:
                continue
            try:
                data = path.read_bytes()
            except OSError as error:
                raise UnreadableImageError(
                    f"Cannot read {path} ({error.strerror}): replace it or take it off the list."
                ) from error
            # The length first, so that no byte can move from one file to the other unseen.
            content.update(len(data).to_bytes(8, "little"))
            content.update(data)
        return content.hexdigest()

    def load(self) -> tuple[Image.Image, Image.Image | None]:
        """Decode both files: see `decoding.read_image` and `decoding.read_trimap`.

        Raises:
            UnreadableImageError: a file is missing or broken, or the two differ in size.
        """
        image = read_image(self.image_path)
        if self.mask_path is None:
            return image, None
        trimap = read_trimap(self.mask_path)
        require_same_size(self.image_path, image.size, trimap.size)
        return image, trimap

    def check(self) -> None:
        """Raise the UnreadableImageError that `load` would, in less time."""
        size_px = check_image(self.image_path)
        if self.mask_path is not None:
            require_same_size(self.image_path, size_px, read_trimap(self.mask_path).size)


@dataclass(frozen=True)
class SyntheticSample(Sample):
    """An image that is drawn when it is loaded, from (seed, index, size) alone."""

    seed: int
    index: int
    image_size_px: int

    def digest(self) -> str:
        """Hex BLAKE2b-128 of the recipe: the pixels follow from it on every machine."""
        recipe = f"synthetic {RECIPE_VERSION} {self.seed} {self.index} {self.image_size_px}"
        return blake2b(recipe.encode(), digest_size=DIGEST_BYTES).hexdigest()

    def load(self) -> tuple[Image.Image, Image.Image]:
        """Draw the square RGB image and its trimap; cannot fail."""
        return render_scene(self.seed, self.index, self.image_size_px)

    def check(self) -> None:
        """Nothing to check: a drawn image is always readable."""


def list_images(folder: Path) -> list[FileSample]:
    """Give the images in a folder and all folders below it, sorted by path, without trimaps.

    A sample's name is its path below `folder` without the suffix ('cats/tom'); where two images
    would share it, both keep the suffix. Hidden files and folders are left out.

    Raises:
        SqueezeError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise SqueezeError(f"There is no folder {folder}: give a folder of images.")
    below = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    below = [path for path in below if not any(part.startswith(".") for part in path.parts)]
    if not below:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SqueezeError(f"The folder {folder} holds no images: put some there ({suffixes}).")
    uses = Counter(path.with_suffix("") for path in below)
    return [
        FileSample(
            (path if uses[path.with_suffix("")] > 1 else path.with_suffix("")).as_posix(),
            folder / path,
        )
        for path in below
    ]


def find_readable(
    samples: Sequence[Sample], max_workers: int | None = None, known: Collection[str] = ()
) -> tuple[list[Sample], list[tuple[str, str]]]:
    """Decode samples in a pool of threads and part the usable from the others.

    Args:
        samples: the samples to try.
        max_workers: threads; None leaves it to `ThreadPoolExecutor`. Decoding releases the GIL.
        known: digests of contents that were decoded before, and need not be again.

    Returns:
        The usable samples, their order kept, and (name, reason) of each that was skipped: a file
        missing or broken, or an image and a trimap of different sizes.
    """
    with ThreadPoolExecutor(max_workers) as pool:
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
        if not (known and _has_digest_in(sample, known)):
            sample.check()
    except UnreadableImageError as error:
        return str(error)
    return None


def _has_digest_in(sample: Sample, known: Collection[str]) -> bool:
    try:
        return sample.digest() in known
    except UnreadableImageError:
        return False  # the check says best what is wrong
