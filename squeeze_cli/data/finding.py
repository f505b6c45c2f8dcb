"""Search for images below a folder, and the names of their samples."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from posixpath import splitext

from squeeze_cli.data.reading import some
from squeeze_cli.data.samples import FileSample, Sample
from squeeze_cli.data.sources import Listing
from squeeze_cli.errors import SqueezeError

# Pillow decodes these. Its other formats do not hold photographs or masks.
IMAGE_SUFFIXES = frozenset(
    {
        ".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
        ".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
    }
)  # fmt: skip


def list_images(folder: Path, without: Path | None = None) -> Listing:
    """List the images in a folder and in all folders below it, sorted by path, without masks.

    A sample's name is its path below `folder` without the suffix ('cats/tom'), or with it where two
    images would share a name. All samples are in `train`. A warning counts the files of other kinds;
    images whose names are not UTF-8 are skipped. The folder `without` is left out.

    Raises SqueezeError if there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise SqueezeError(f"There is no folder {folder}: give a folder of images.")
    files, warnings = files_below(folder, without)
    paths = [path.as_posix() for path in files]
    listing = name_images(folder, paths, lambda name, path: FileSample(name, folder / path))
    if not (listing.train or listing.skipped):
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SqueezeError(f"The folder {folder} holds no images: put some there ({suffixes}).")
    return replace(listing, warnings=(*listing.warnings, *warnings))


def name_images(
    place: Path | str, paths: Sequence[str], sample: Callable[[str, str], Sample],
    stem: Callable[[str], str] = lambda path: splitext(path)[0],
) -> Listing:  # fmt: skip
    """List the images among the files `paths` of a place, as `list_images` does.

    `sample` makes a sample from its name and path.
    """
    images = [path for path in paths if splitext(path)[1].lower() in IMAGE_SUFFIXES]
    samples, skipped, warnings = [], [], []
    for name, path in zip(names_below(images, stem), images, strict=True):
        if re.search("[\ud800-\udfff]", name):  # bytes that are not UTF-8
            skipped.append((name, "its name is not UTF-8: rename it."))
        else:
            samples.append(sample(name, path))
    suffixes = (splitext(path)[1].lower() for path in set(paths) - set(images))
    if others := Counter(suffix or "no suffix" for suffix in suffixes):
        by_count = sorted(others.items(), key=lambda item: (-item[1], item[0]))
        kinds = some([f"{count} of {suffix}" for suffix, count in by_count])
        warnings.append(f"Left out {others.total()} files in {place} that are not images: {kinds}.")
    return Listing(tuple(samples), skipped=tuple(skipped), warnings=tuple(warnings))


def files_below(folder: Path, without: Path | None = None) -> tuple[list[Path], list[str]]:
    """Return the sorted relative paths of all files below a folder, and warnings.

    Links to folders are followed, but each folder is listed once; a warning counts further links to it.
    Hidden files and folders are left out, and so is the folder `without`. Raises SqueezeError
    where a folder cannot be listed.
    """
    left_out = None if without is None else without.resolve()
    files, repeated, entered = [], [], set()
    folders, links = [Path()], list[Path]()
    while folders or links:
        inner = (folders or links).pop()  # a link's target may be among the folders
        real = (folder / inner).resolve()
        if real == left_out:
            continue
        if real in entered:
            repeated.append(inner.as_posix())
            continue
        entered.add(real)
        try:
            entries = sorted(os.scandir(folder / inner), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            reason = error.strerror or error
            raise SqueezeError(f"Cannot list {folder / inner} ({reason}): fix that.") from None
        for entry in (each for each in entries if not each.name.startswith(".")):
            linked = entry.is_symlink()  # `entry.is_dir` would raise for a link to itself
            if Path(entry.path).is_dir() if linked else entry.is_dir():
                (links if linked else folders).append(inner / entry.name)
            else:
                files.append(inner / entry.name)
    warning = (
        f"{len(repeated)} folders in {folder} are links to, or below links to, others that are listed, "
        f"and are left out: {some(sorted(repeated))}."
    )
    return sorted(files), [warning] if repeated else []


def names_below(
    paths: Sequence[str], stem: Callable[[str], str] = lambda path: splitext(path)[0]
) -> list[str]:
    """Return a name per file: the `stem` of its path if it is unique, else the path."""
    whole = set(paths)
    uses = Counter(map(stem, paths))
    return [path if uses[short := stem(path)] > 1 or short in whole else short for path in paths]
