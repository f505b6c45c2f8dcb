"""`squeeze decode`: decoding of codes files to features or masks, without images and backbone."""

import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from squeeze_cli.codec.manifest import Settings, record_of
from squeeze_cli.config.classes import classes_to_yaml
from squeeze_cli.console import Reporter
from squeeze_cli.errors import UsageError
from squeeze_cli.files import locked, remove_parts, write_atomically
from squeeze_cli.inference.codes_folder import CodesFolder
from squeeze_cli.inference.decoded_files import (
    DecodedRecord,
    DType,
    Form,
    decoded_batches,
    import_pyarrow,
    write_npy,
    write_parquet,
)
from squeeze_cli.inference.output_folder import OutputFolder, encode_embeddings
from squeeze_cli.inference.plan import most_images
from squeeze_cli.inference.trained_run import TrainedRun

BATCH_IMAGES = 64
# Name of the file with the classes of decoded masks.
CLASSES_NAME = "classes.yaml"
# Field `Software` of a mask's PNG, followed by a digest of the run and the codes.
SOFTWARE = "squeeze decode"
# First line of the file of classes; a file without it is the user's own.
NOTE = "# Classes of masks that `squeeze decode` wrote.\n"
# Limit of file systems on the bytes of a file name.
LONGEST_NAME = 255


def decode_codes(
    path: Path, content: Literal["features", "masks"], out: Path, reporter: Reporter, *,
    run: Path | None = None, overwrite: bool = False, device: str = "auto",
    form: Form | None = None, dtype: DType | None = None,
) -> dict[str, object]:  # fmt: skip
    """Decode a codes file, or a folder of them, into `out`.

    Args:
        path: A codes file, or a folder that `squeeze extract-embeddings` wrote.
        content: `features` (shards of embeddings) or `masks` (one PNG per image, and `classes.yaml`
            for `--classes`).
        out: Folder to write to.
        reporter: Reporter for progress.
        run: Folder of the run that made the codes; by default the one that contains `path`.
        overwrite: Whether to replace the content of `out`; without it a stopped decoding of the same
            codes is continued.
        device: Device to compute on.
        form: Format of the features; None stands for shards like those of `extract-embeddings`.
        dtype: Type of the features; by default float32.

    Returns:
        The content of `squeeze decode --json`.

    Raises:
        SqueezeError: A file is damaged or of another run, no run is found, or it predicts no masks.
        UsageError: `out` holds the codes or other files, masks are given a format, or pyarrow is missing.
    """
    if content == "masks" and (form is not None or dtype is not None):
        raise UsageError("--as and --dtype are for --to features: leave them out.")
    if form == "parquet":
        import_pyarrow()
    codes = CodesFolder(path, run, in_order=True, device=device)
    paths = [shard.path for shard in codes.shards]
    folders = {path.resolve() if path.is_dir() else path.parent.resolve()}
    folders |= {file.resolve().parent for file in paths}
    # Both may be shards, so that replacing the content of `out` would delete the codes.
    if out.resolve() in folders and (content == "features" or path.is_dir()):
        raise UsageError(f"{out} holds the codes that are to be decoded: choose another --out.")
    opened, names, claimed = codes.run, codes.names, locked(out, "choose another --out")
    digest = _digest(opened, paths)
    if content == "masks":
        written = _write_masks(codes, out, f"{SOFTWARE} {digest}", overwrite, reporter)
    elif form in ("npy", "parquet"):
        record = DecodedRecord(run=opened.digest, codes=digest, dtype=dtype or "float32")
        write = write_npy if form == "npy" else write_parquet
        written = write(out, record, codes, overwrite)
    else:
        settings = _settings(opened, digest, dtype or "float32")
        count = -(-len(codes) // settings.images_per_shard)
        output = OutputFolder(out, settings, count, range(count), reporter, overwrite)
        claimed, written = output.claimed(), _write_features(codes, output)
    with claimed, reporter.track("Decoding", len(names)) as advance:
        for images in written:
            advance(images, "")
    classes = {"classes": opened.classes.names} if content == "masks" else {}
    return {
        "run": opened.folder.name, "content": content, "images": len(names), **classes, "out": str(out),
    }  # fmt: skip


def _digest(run: TrainedRun, paths: Iterable[Path]) -> str:
    """Return a digest of a run and codes files, sixteen hexadecimal digits."""
    content = blake2b(run.digest.encode())
    for path in paths:
        content.update(path.read_bytes())
    return content.hexdigest()[:16]


def _settings(run: TrainedRun, digest: str, dtype: DType) -> Settings:
    """Return the settings of shards like those of `extract-embeddings --format quantized`."""
    return Settings(
        content="quantized", run=run.folder.name, run_digest=run.digest, source="codes",
        plan=digest, images_per_shard=most_images("quantized", run.points_per_image),
        dtype=dtype, space=run.space,
    )  # fmt: skip


def _write_features(codes: CodesFolder, output: OutputFolder) -> Iterator[int]:
    """Write the missing shards, and yield the number of images in each batch.

    Raises UsageError if none is missing.
    """
    missing = [number for number in output.numbers if output.find(number) is None]
    if not missing:
        raise UsageError(
            f"{output.folder} holds decoded features already: --overwrite replaces them."
        )
    size, dtype = output.settings.images_per_shard, output.settings.dtype or "float32"
    for number in output.numbers:
        images = range(len(codes))[number * size :][:size]
        if number not in missing:
            yield len(images)
            continue
        parts = []
        for _, features in decoded_batches(codes, images, BATCH_IMAGES, dtype):
            parts.append(features)
            yield len(features)
        names = codes.names[images.start : images.stop]
        content = encode_embeddings(np.concatenate(parts), names)
        output.write(content, record_of(output.settings, number, output.count, content, len(names)))
    output.finish()


def _plan_files(
    names: Sequence[str], out: Path, mark: str, overwrite: bool, reporter: Reporter
) -> list[Path]:
    """Choose a file for each image's mask before any is written, so that no mask replaces another.

    A mask has its image's name, unless that is too long for a file, or is also the name of a folder of
    other masks; a warning counts these. Existing files raise UsageError, except those with the same
    `mark`, which a stopped decoding wrote, and with `overwrite` all that `squeeze decode` wrote. The
    user's own images and masks are never replaced.
    """
    preferred = [out / "/".join(map(_short, f"{name}.png".split("/"))) for name in names]
    folders = {folder for file in preferred for folder in file.parents}
    for folder in folders:
        if folder == out / CLASSES_NAME or (folder.exists() and not folder.is_dir()):
            raise UsageError(
                f"A mask would be written below {folder}, which is a file: decode --to features, or "
                "choose another --out."
            )
    taken: set[Path] = set(folders)
    files = []
    for file in preferred:
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
    near = {old for folder in {out, *(f.parent for f in files)} for old in folder.glob("*.png")}
    if olds := {old for old in near - set(files) if _software(old).startswith(SOFTWARE)}:
        reporter.warn(
            f"{len(olds)} masks of other codes remain in {out}, such as {min(olds)}: remove them, or "
            "choose another --out."
        )
    other = [f"{n} ({f.name})" for n, f in zip(names, files, strict=True) if f != out / f"{n}.png"]
    if other:
        reporter.warn(
            f"{len(other)} masks cannot have the names of their images, and get others: {other[0]}."
        )
    return files


def _short(part: str) -> str:
    """Return a part of a path that fits `LONGEST_NAME`: a digest replaces the end of a longer one."""
    if len(content := os.fsencode(part)) <= LONGEST_NAME:
        return part
    digest = blake2b(content, digest_size=4).hexdigest()
    return f"{content[: LONGEST_NAME - 16].decode(errors='ignore')}-{digest}{Path(part).suffix[:5]}"


def _software(file: Path) -> str:
    """Return the field `Software` of a PNG, or an empty text for other files."""
    if not file.is_file():
        return ""
    try:
        with Image.open(file) as image:
            return str(image.info.get("Software", ""))
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""


def _write_masks(
    codes: CodesFolder, out: Path, mark: str, overwrite: bool, reporter: Reporter
) -> Iterator[int]:
    """Write a PNG of class indices per image, and the file of classes; yields the images per batch.

    The palette has the classes' colours, and greys for outputs of the head beyond the classes. Raises
    SqueezeError for a run without a head and a name that leaves `out`, and as `_plan_files` does.
    """
    classes = codes.run.classes
    for number in range(len(codes.shards)):
        codes.file(number).require_relative_names()
    files = _plan_files(codes.names, out, mark, overwrite, reporter)
    palette = [channel for colour in classes.colours for channel in colour]
    palette += [index for index in range(len(classes.colours), 256) for _ in range(3)]
    notes = PngInfo()
    notes.add_text("Software", mark)
    remove_parts({out, *(place.parent for place in files)})
    for begin in range(0, len(codes), BATCH_IMAGES):
        places = files[begin : begin + BATCH_IMAGES]
        if not all(_software(place) == mark for place in places):
            masks = codes.run.masks(codes.read(range(begin, begin + len(places))))
            for place, mask in zip(places, masks, strict=True):
                image = Image.fromarray(mask)
                image.putpalette(palette)
                content = BytesIO()
                image.save(content, format="PNG", optimize=True, pnginfo=notes)
                write_atomically(place, content.getbuffer())
        yield len(places)
    write_atomically(out / CLASSES_NAME, NOTE + classes_to_yaml(classes))
