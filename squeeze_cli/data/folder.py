"""Images and masks of the user in folders, paired by relative path without suffix."""

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from os.path import commonprefix
from pathlib import Path

from squeeze_cli.data.finding import list_images
from squeeze_cli.data.reading import read_entries, same_name, some
from squeeze_cli.data.samples import FileSample, Sample
from squeeze_cli.data.sources import DataSource, Listing
from squeeze_cli.errors import SqueezeError, UsageError

SPLITS = ("train", "val", "test")
MOST_ENDS = 20  # that are tried for the fix of an error
# Names of folders that people use for splits, in any case.
_LIKE_SPLITS = re.compile("(train|val|test)(ing|id|idation)?/", re.IGNORECASE)
# Paths and names of files by their paths below a folder, without suffix and end.
Stems = dict[str, dict[Path, str]]


class FolderSource(DataSource):
    """Images in one folder and masks in another; a split file or subfolders may give the splits."""

    fix = "Add the values to the file of --classes, with a name or under `ignore`, or correct the masks."

    def listing(self) -> Listing:
        """List the pairs; raises SqueezeError where a folder is missing or no image has a mask."""
        config = self.config
        images = Path(str(config.images))
        found = pair(images, config.masks, config.mask_suffix)
        if config.split_file is not None:
            return split_by_file(found, Path(config.split_file))
        found = _split_by_folder(found, images, test_elsewhere=config.test_images is not None)
        if config.test_images is None:
            return found
        if found.test:
            raise UsageError(f"--test-images contradicts {images / 'test'}: leave one of them out.")
        test = pair(Path(config.test_images), config.test_masks, config.mask_suffix)
        samples = [replace(sample, name=f"test/{sample.name}") for sample in test.train]
        skipped = [(f"test/{name}", reason) for name, reason in test.skipped]
        return found.with_splits({"test": samples}, skipped, test.warnings)


def pair(images: Path, masks_folder: str | None, mask_suffix: str | None = None) -> Listing:
    """Return the images, each with the mask of the same relative path without suffix, all in `train`.

    The paths of masks also have the end `mask_suffix`, as `_mask`; with `_photo=_mask` it replaces an end
    of the image's path. Images without a mask, with several masks, or with the path of another image are
    skipped; a warning counts the masks without an image. Where one folder lies in the other, each file
    belongs to the inner one. Without a folder of masks all images are returned. Raises SqueezeError
    where no image has a mask.
    """
    if masks_folder is None:
        return list_images(images)
    masks = Path(masks_folder)
    image_end, _, mask_end = (mask_suffix or "").rpartition("=")
    together = images.resolve() == masks.resolve()
    if together and not mask_end:
        raise UsageError(
            f"Images and masks are both in {images}: put the masks into another folder, or give the "
            "end of their names by --mask-suffix, such as _mask."
        )
    listed = list_images(images, None if together else masks)
    listed_masks = listed if together else list_images(masks, images)
    pictures = _by_stem(
        listed, images, image_end, lambda stem: not (together and stem.endswith(mask_end))
    )
    by_stem = _by_stem(listed_masks, masks, mask_end, lambda stem: stem.endswith(mask_end))
    others = len(listed_masks.train) - sum(map(len, by_stem.values()))
    samples, skipped = [], []
    for stem, paths in pictures.items():
        found = by_stem.pop(stem, {})
        if len(paths) == len(found) == 1:
            samples += [FileSample(name, path, next(iter(found))) for path, name in paths.items()]
            continue
        if len(paths) > 1:
            several = f"{len(paths)} images are named {stem}, except for their suffixes"
            reason = f"{several}: rename or remove all but one."
        elif found:
            several = " and ".join(path.name for path in found)
            reason = f"it has several masks, {several}: remove one."
        else:
            reason = f"there is no mask {masks / stem}{mask_end} of any kind."
        skipped += [(name, reason) for name in paths.values()]
    alone = [str(path.relative_to(masks)) for paths in by_stem.values() for path in paths]
    if not samples:
        raise _nothing_paired(listed, images, listed_masks, masks)
    warnings: list[str] = []
    if not together:
        warnings += listed_masks.warnings
        warnings += [f"{name} in {masks}: {reason}" for name, reason in listed_masks.skipped]
    if others and not together:
        warnings.append(f"Left out {others} files in {masks} whose names do not end in {mask_end}.")
    if alone:
        warnings.append(f"{len(alone)} masks in {masks} have no image: {some(alone)}.")
    return listed.with_splits({"train": samples}, skipped, warnings)


def _by_stem(
    listing: Listing, folder: Path, end: str = "", counts: Callable[[str], bool] = lambda stem: True
) -> Stems:
    """Return paths and names of files by their paths below the folder, without suffix and `end`.

    `counts` tells from the path without suffix whether a file is one of them.
    """
    found: Stems = defaultdict(dict)
    for sample in listing.train:
        if isinstance(sample, FileSample):
            stem = same_name(sample.image_path.relative_to(folder).with_suffix("").as_posix())
            if counts(stem):
                found[stem.removesuffix(end)][sample.image_path] = sample.name
    return found


def _nothing_paired(listed: Listing, images: Path, found: Listing, masks: Path) -> SqueezeError:
    """Return the error that no image has a mask, with the `--mask-suffix` that would pair most images."""

    def start(path: str) -> int:
        return len(commonprefix([first, path]))  # noqa: RUF071 - characters, not folders

    def file(stems: Stems, stem: str, folder: Path) -> str:
        return next((str(path.relative_to(folder)) for path in stems.get(stem, ())), "(none)")

    def pairs(mask: str) -> int:
        return sum(stem.removesuffix(end) + mask[shared:] in drawn for stem in pictures)

    pictures, drawn = _by_stem(listed, images), _by_stem(found, masks)
    first = next(iter(pictures), "")
    shared = max(map(start, drawn), default=0)
    end = first[shared:]
    like = [path for path in drawn if start(path) == shared]
    mask = max(like[:MOST_ENDS], key=pairs, default="")
    fix = f"give --mask-suffix {end + '=' if end else ''}{mask[shared:]}"
    if "/" in end + mask[shared:] or 2 * pairs(mask) <= len(pictures):
        fix = "rename the masks"
    return SqueezeError(
        f"No image in {images} has a mask in {masks}: the image {file(pictures, first, images)} needs a "
        f"mask of the same path except for its suffix, and a mask is {file(drawn, mask, masks)}: {fix}."
    )


def _split_by_folder(found: Listing, images: Path, test_elsewhere: bool) -> Listing:
    """Assign the samples below train/, val/ and test/ to these splits, if there are such folders."""
    by_split: dict[str, list[Sample]] = {name: [] for name in SPLITS}
    outside: list[Sample] = []
    for sample in found.train:
        folder, below, _ = sample.name.partition("/")  # an image `test.jpg` is not a split
        by_split.get(folder if below else "", outside).append(sample)
    named = [f"{name}/" for name, samples in by_split.items() if samples]
    if not named:
        like = sorted({match[0] for each in outside if (match := _LIKE_SPLITS.match(each.name))})
        warning = (
            f"The folders {some(like)} of {images} are not splits, so the seed draws these from all "
            "images: name the folders train/, val/ and test/, or give --split-file."
        )
        return replace(found, warnings=(*found.warnings, warning)) if like else found
    if not by_split["train"]:
        raise SqueezeError(
            f"{images} has images in {' and '.join(named)}, but none to train on in train/: move these "
            "there, or give --split-file."
        )
    if outside:
        raise SqueezeError(
            f"{images} has a folder train/, and {len(outside)} images outside of train/, val/ and test/: "
            f"{some([sample.name for sample in outside])}: move them, or give --split-file."
        )
    return _in_splits(found, by_split, None if test_elsewhere else images)


def _in_splits(found: Listing, by_split: dict[str, list[Sample]], where: Path | None) -> Listing:
    """Return the listing with these splits; `where` is their source, for a warning if test is empty."""
    warnings = []
    if where is not None and not by_split["test"]:
        warnings.append(
            f"{where} names no test images: 20 % of those in train become the test split."
        )
    return found.with_splits(by_split, warnings=warnings)


def split_by_file(found: Listing, path: Path) -> Listing:
    """Assign samples to the splits that a split file gives; samples that are not listed are left out.

    A line is `NAME train`, `NAME val` or `NAME test`, separated by spaces, tabs or a comma; a name is an
    image's path in its folder, with or without suffix. A repeated line counts once. Raises SqueezeError,
    with file and line, for other lines, an unknown name, and a name in two splits.
    """
    samples = {sample.name: sample for sample in found.train}
    for sample in found.train:
        samples.setdefault(same_name(sample.name), sample)
    for sample in found.train:  # a name may be given with its suffix
        if isinstance(sample, FileSample):
            for name in (sample.name, same_name(sample.name)):
                samples.setdefault(name + sample.image_path.suffix, sample)
    skipped = {same_name(name) for name, _ in found.skipped}
    by_split: dict[str, list[Sample]] = {name: [] for name in SPLITS}
    lines: dict[str, tuple[int, str]] = {}
    for line, text in read_entries(path):
        match = re.fullmatch(rf"(.*[^\s,])[\s,]+({'|'.join(SPLITS)})", text)
        if match is None:
            raise SqueezeError(
                f"{path}, line {line}: {text[:60]!r} does not end in train, val or test: write `NAME "
                "train`, for example."
            )
        name, split = match.groups()
        key = name if name in samples else same_name(name)
        if key not in samples:
            if key in skipped or key.rpartition(".")[0] in skipped:
                continue
            raise SqueezeError(
                f"{path}, line {line}: there is no image {name!r}, as names are like "
                f"{next(iter(samples), 'cats/tom')!r}: correct or remove the line."
            )
        sample = samples[key]
        earlier, other = lines.setdefault(sample.name, (line, split))
        if other != split:
            raise SqueezeError(
                f"{path}, line {line}: {name!r} is in {split} here and in {other} in line {earlier}: "
                "remove one of the two."
            )
        by_split[split].append(sample)
    others = [sample.name for sample in found.train if sample.name not in lines]
    if others:
        warning = f"{len(others)} images are not listed in {path} and left out: {some(others)}."
        if any(re.match(r"[#\s]", name) for name in others):
            warning += " Before a name that begins with # or a blank, write ./"
        found = replace(found, warnings=(*found.warnings, warning))
    return _in_splits(found, by_split, path)
