"""`squeeze decode`: codes files to features or masks, without images and without a backbone."""

import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from io import BytesIO
from itertools import chain, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from squeeze_cli.codec.manifest import Settings, record_of
from squeeze_cli.codec.shards import Output, read_output
from squeeze_cli.config.classes import classes_to_yaml
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.files import locked, remove_parts, write_atomically, write_text_atomically
from squeeze_cli.inference.output import Array, OutputFolder, encode_embeddings
from squeeze_cli.inference.plan import images_per_shard
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.runs import RECORD_NAME

BATCH_IMAGES = 64
# The file of classes beside decoded masks.
CLASSES_NAME = "classes.yaml"
# What a mask says of its origin, before a digest of the run and the codes.
SOFTWARE = "squeeze decode"
# The first line of the file of classes: one without it is the person's own.
NOTE = "# Classes of masks that `squeeze decode` wrote.\n"
# Bytes that file systems allow for a file's name.
LONGEST_NAME = 255
Batches = Iterable[tuple[tuple[str, ...], NDArray[np.int32]]]


def decode_codes(
    path: Path, content: Literal["features", "masks"], out: Path, reporter: Reporter, *,
    run: Path | None = None, overwrite: bool = False, device: str = "auto",
) -> dict[str, object]:  # fmt: skip
    """Decode a codes file, or a folder of them, into `out`.

    Args:
        path: A codes file, or a folder that `squeeze extract-embeddings` wrote.
        content: `features` (shards of embeddings) or `masks` (one PNG per image, and `classes.yaml`,
            their classes as `--classes` reads them).
        out: Folder to write to.
        reporter: Reporter for progress.
        run: Folder of the run that made the codes; None looks for it around `path`.
        overwrite: Whether to replace what is in `out`; what a stopped decoding of the same codes
            left there is continued anyway.
        device: Device to compute on.

    Returns:
        What `squeeze decode --json` prints.

    Raises:
        SqueezeError: A file is damaged or of another run, no run is found, or it predicts no masks.
        UsageError: `out` holds the codes themselves, or something else.
    """
    if not path.exists():
        raise SqueezeError(f"There is no {path}: give a codes file or the folder of one.")
    shards = [] if path.is_file() else _read_output(path).shards
    paths = [path] if path.is_file() else [shard.checked() for shard in shards]
    folders = {path.resolve() if path.is_dir() else path.parent.resolve()}
    folders |= {file.resolve().parent for file in paths}
    # Features are shards, as codes may be: replacing what is in `out` would delete the codes.
    if out.resolve() in folders and (content == "features" or path.is_dir()):
        raise UsageError(f"{out} holds the codes that are to be decoded: choose another --out.")
    opened = TrainedRun(run or _find_run(path), {"training.device": device})
    opened.require_codes()
    if content == "masks":
        opened.require_head()
    files = [opened.open(file) for file in paths]
    for file in files if content == "masks" else ():
        file.require_relative_names()
    batches = chain.from_iterable(file.batches(BATCH_IMAGES) for file in files)
    names = [name for file in files for name in file.names]
    if len(set(names)) < max(len(names), 1):
        raise SqueezeError(f"{path} has no images, or one twice: extract it again.")
    for shard, file in zip(shards, files, strict=False):
        shard.require_names(file.names)
    of_codes = _digest(opened, paths)
    if content == "features":
        output = _features_output(opened, out, of_codes, len(names), reporter, overwrite)
        claimed, written = output.claimed(), _write_features(opened, batches, output)
    else:
        claimed = locked(out, "choose another --out")
        written = _write_masks(opened, batches, names, out, of_codes, overwrite, reporter)
    with claimed, reporter.track("Decoding", len(names)) as advance:
        for images in written:
            advance(images, "")
    classes = {"classes": opened.classes.names} if content == "masks" else {}
    return {
        "run": opened.folder.name, "content": content, "images": len(names), **classes, "out": str(out),
    }  # fmt: skip


def _digest(run: TrainedRun, paths: Iterable[Path]) -> str:
    """Return sixteen hexadecimal digits of a run and codes files."""
    content = b"".join([run.digest.encode(), *(path.read_bytes() for path in paths)])
    return blake2b(content).hexdigest()[:16]


def _features_output(
    run: TrainedRun, out: Path, of_codes: str, images: int, reporter: Reporter, overwrite: bool
) -> OutputFolder:
    """Return what `extract-embeddings --format quantized` writes, for codes of this digest."""
    settings = Settings(
        content="quantized", run=run.folder.name, run_digest=run.digest, source="codes",
        plan=of_codes, images_per_shard=images_per_shard("quantized", run.points_per_image),
        dtype="float32", space=run.space,
    )  # fmt: skip
    count = -(-images // settings.images_per_shard)
    return OutputFolder(out, settings, count, range(count), reporter, overwrite)


def _write_features(run: TrainedRun, batches: Batches, output: OutputFolder) -> Iterator[int]:
    """Write the shards that are not there yet; yields the images per batch.

    Raises UsageError where all are there.
    """
    missing = [number for number in output.numbers if output.find(number) is None]
    if not missing:
        raise UsageError(
            f"{output.folder} holds decoded features already: --overwrite replaces them."
        )
    size, number = output.settings.images_per_shard, 0
    names: list[str] = []
    parts: list[Array] = []

    def write() -> None:
        nonlocal number
        if parts:
            content = encode_embeddings(np.concatenate(parts), names)
            record = record_of(output.settings, number, output.count, content, len(names))
            output.write(content, record)
        number += 1
        names.clear()
        parts.clear()

    for batch_names, codes in batches:
        for begin, end in _cuts(len(codes), size - len(names), size):
            names += batch_names[begin:end]
            if number in missing:
                features = run.to_output(run.features(codes[begin:end]))
                parts.append(features.float().cpu().numpy())
            if len(names) == size:
                write()
        yield len(codes)
    if names:
        write()
    output.finish()


def _cuts(images: int, first: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut so many images behind the `first` ones, then after every `size`."""
    edges = [0, *range(first, images, size), images]
    return pairwise(edges)


def _plan_files(
    names: Sequence[str], out: Path, mark: str, overwrite: bool, reporter: Reporter
) -> list[Path]:
    """Return a file for each image's mask, before any is written: no image loses its own.

    A mask has its image's name, unless that is too long for a file, or the file would be the folder of
    another mask: a warning counts these. Raises UsageError for files that exist, unless a stopped
    decoding wrote them, with the same `mark`, or they are masks of another one and `overwrite` is set:
    nobody's own images and masks are replaced.
    """
    wanted = [out / "/".join(map(_short, f"{name}.png".split("/"))) for name in names]
    folders = {folder for file in wanted for folder in file.parents}
    for folder in folders:
        if folder == out / CLASSES_NAME or (folder.exists() and not folder.is_dir()):
            raise UsageError(
                f"A mask would be written below {folder}, which is a file: decode --to features, or "
                "choose another --out."
            )
    taken: set[Path] = set(folders)
    files = []
    for file in wanted:
        while file in taken:
            file = file.with_name(f"{file.name}.png")
        taken.add(file)
        files.append(file)
    for file in (out / CLASSES_NAME, *files):
        if not file.exists() or _software(file) == mark:
            continue
        if not overwrite:
            raise UsageError(f"{file} exists: choose another --out, or --overwrite.")
        own = file.is_file() and file.read_bytes().startswith(NOTE.encode())
        if not own and not _software(file).startswith(SOFTWARE):
            raise UsageError(
                f"{file} was not written by `squeeze decode`, and is not replaced: choose another --out."
            )
    other = [f"{n} ({f.name})" for n, f in zip(names, files, strict=True) if f != out / f"{n}.png"]
    if other:
        reporter.warn(
            f"{len(other)} masks cannot have the names of their images, and have others: {other[0]}."
        )
    return files


def _short(part: str) -> str:
    """Return a part of a path that a file system takes: a digest replaces the end of a long one."""
    if len(content := os.fsencode(part)) <= LONGEST_NAME:
        return part
    digest = blake2b(content, digest_size=4).hexdigest()
    return f"{content[: LONGEST_NAME - 16].decode(errors='ignore')}-{digest}{Path(part).suffix[:5]}"


def _software(file: Path) -> str:
    """Return what a PNG says of the program that wrote it; nothing for any other file."""
    if not file.is_file():
        return ""
    try:
        with Image.open(file) as image:
            return str(image.info.get("Software", ""))
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""


def _write_masks(
    run: TrainedRun, batches: Batches, names: Sequence[str], out: Path, of_codes: str,
    overwrite: bool, reporter: Reporter,
) -> Iterator[int]:  # fmt: skip
    """Write a PNG of class indices per image, with the classes' colours as palette, and the classes.

    Outputs of the head beyond the classes are greys. Yields the images per batch. Raises UsageError as
    `_plan_files` does.
    """
    mark = f"{SOFTWARE} {of_codes}"
    files = _plan_files(names, out, mark, overwrite, reporter)
    colours = run.classes.colours
    palette = [channel for colour in colours for channel in colour]
    palette += [index for index in range(len(colours), 256) for _ in range(3)]
    notes = PngInfo()
    notes.add_text("Software", mark)
    remove_parts({out, *(place.parent for place in files)})
    done = 0
    for _, codes in batches:
        places = files[done : done + len(codes)]
        done += len(codes)
        if all(_software(place) == mark for place in places):
            yield len(codes)
            continue
        for place, mask in zip(places, run.masks(codes), strict=True):
            image = Image.fromarray(mask)
            image.putpalette(palette)
            content = BytesIO()
            image.save(content, format="PNG", optimize=True, pnginfo=notes)
            write_atomically(place, content.getbuffer())
        yield len(codes)
    write_text_atomically(out / CLASSES_NAME, NOTE + classes_to_yaml(run.classes))


def _read_output(path: Path) -> Output:
    """Return the output in a folder of codes."""
    output = read_output(path)
    if output.content != "codes":
        raise SqueezeError(
            f"{path} holds {output.content}, no codes: give what `squeeze extract-embeddings --format "
            "codes` wrote."
        )
    return output


def _find_run(path: Path) -> Path:
    """Return the run's folder around `path`; raises SqueezeError where there is none."""
    for parent in path.resolve().parents:
        if (parent / RECORD_NAME).exists():
            return parent
    raise SqueezeError(f"{path} lies in no run's folder: give the run that made it by --run.")
