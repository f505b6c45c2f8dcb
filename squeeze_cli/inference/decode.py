"""`squeeze decode`: codes files to features or masks, without images and without a backbone."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeeze_cli.codec.manifest import Manifest, read_manifest
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.files import replacing
from squeeze_cli.inference.output import ShardedOutput, save_embeddings
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.runs import RECORD_NAME

BATCH_IMAGES = 64
Batches = Iterable[tuple[tuple[str, ...], NDArray[np.int32]]]


def decode_codes(
    path: Path,
    content: Literal["features", "masks"],
    out: Path,
    reporter: Reporter,
    *,
    run: Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> dict[str, object]:
    """Decode a codes file, or a folder of them, into `out`.

    Args:
        path: A codes file, or a folder that `squeeze extract-embeddings` wrote.
        content: `features` (shards of embeddings) or `masks` (one PNG per image).
        out: Folder to write to.
        reporter: Reporter for progress.
        run: Folder of the run that made the codes; None looks for it around `path`.
        overwrite: Whether to replace what is in `out`.
        device: Device to compute on.

    Returns:
        What `squeeze decode --json` prints.

    Raises:
        SqueezeError: A file is damaged or of another run, no run is found, or it predicts no masks.
        UsageError: `out` holds the codes themselves, or something else.
    """
    paths = _code_files(path)
    folders = {path.resolve() if path.is_dir() else path.parent.resolve()}
    folders |= {file.resolve().parent for file in paths}
    # Features are shards, as codes may be: replacing what is in `out` would delete the codes.
    if out.resolve() in folders and (content == "features" or path.is_dir()):
        raise UsageError(f"{out} holds the codes that are to be decoded: choose another --out.")
    opened = TrainedRun(run or _find_run(path), device=device)
    opened.require_codes()
    if content == "masks":
        opened.require_head()
    files = [opened.open(file) for file in paths]
    batches = chain.from_iterable(file.batches(BATCH_IMAGES) for file in files)
    total = sum(len(file) for file in files)
    write = _write_masks if content == "masks" else _write_features
    with reporter.track("Decoding", total) as advance:
        for images in write(opened, batches, out, overwrite):
            advance(images, "")
    result: dict[str, object] = {"run": opened.folder.name, "content": content, "images": total}
    if content == "masks":
        result["classes"] = opened.classes.names
    return {**result, "out": str(out)}


def _write_features(run: TrainedRun, batches: Batches, out: Path, overwrite: bool) -> Iterator[int]:
    """Write what `extract-embeddings --format quantized` does; yields the images per batch."""
    manifest = Manifest(
        content="quantized", run=run.folder.name, run_digest=run.digest, source="codes",
        dtype="float32", space=run.space,
    )  # fmt: skip
    output = ShardedOutput(out, manifest, save_embeddings, overwrite=overwrite)
    if output.manifest.shards:
        raise UsageError(f"{out} holds decoded features already: --overwrite replaces them.")
    for names, codes in batches:
        output.add(names, run.to_output(run.features(codes)).float().cpu().numpy(), {})
        yield len(names)
    output.finish()


def _write_masks(run: TrainedRun, batches: Batches, out: Path, overwrite: bool) -> Iterator[int]:
    """Write a PNG of class indices per image, with the classes' colours as palette.

    Outputs of the head beyond the classes are greys. Yields the images per batch.
    """
    colours = run.classes.colours
    palette = [channel for colour in colours for channel in colour]
    palette += [index for index in range(len(colours), 256) for _ in range(3)]
    for names, codes in batches:
        for name, mask in zip(names, run.masks(codes), strict=True):
            parts = PurePosixPath(name).parts
            if name.startswith("/") or ".." in parts or "\\" in name:
                raise SqueezeError(
                    f"The image name {name!r} would leave {out}: decode to features."
                )
            path = out / f"{name}.png"
            if path.exists() and not overwrite:
                raise UsageError(f"{path} exists: choose another --out, or --overwrite.")
            image = Image.fromarray(mask)
            image.putpalette(palette)
            with replacing(path) as temporary:
                image.save(temporary, format="PNG", optimize=True)
        yield len(names)


def _code_files(path: Path) -> list[Path]:
    """Return the codes files at `path`, which is one, or a folder of them."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise SqueezeError(f"There is no {path}: give a codes file or the folder of one.")
    manifest = read_manifest(path)
    if manifest.content != "codes":
        raise SqueezeError(f"{path} holds {manifest.content}, no codes.")
    return [path / shard.file for shard in manifest.shards]


def _find_run(path: Path) -> Path:
    """Return the run's folder around `path`; raises SqueezeError where there is none."""
    for parent in path.resolve().parents:
        if (parent / RECORD_NAME).exists():
            return parent
    raise SqueezeError(f"{path} lies in no run's folder: give the run that made it by --run.")
