"""`squeeze decode`: codes files to features or masks, without images and without a backbone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeeze_cli.codec.container import CodesFile
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.files import replacing
from squeeze_cli.inference.manifest import ShardedOutput, read_manifest
from squeeze_cli.inference.run_codec import RunCodec, load_codec
from squeeze_cli.inference.shard_buffer import ShardBuffer, save_embeddings
from squeeze_cli.runs import RECORD_NAME
from squeeze_cli.training.devices import choose_device

# Pet, background, border in colours that the colour-blind tell apart; further outputs in greys.
PALETTE = (0, 114, 178, 240, 240, 240, 230, 159, 0)
BATCH_IMAGES = 64


def decode_codes(
    path: Path,
    content: str,
    out: Path,
    reporter: Reporter,
    *,
    run: Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Decode a codes file, or a folder of them, into `out`.

    Args:
        path: a codes file, or the folder that `squeeze extract-embeddings` wrote.
        content: `features` (shards of embeddings) or `masks` (a PNG an image).
        out: folder to write to.
        reporter: for messages.
        run: the run that made the codes; None looks for it around `path`.
        overwrite: replace what is in `out`.
        device: where to compute.

    Returns:
        What `--json` prints.

    Raises:
        SqueezeError: a file is damaged or another run's, or no run is found.
        UsageError: `out` holds something else.
    """
    if out.resolve() == path.resolve():
        raise UsageError(f"{out} holds the codes that are to be decoded: choose another --out.")
    paths = _code_files(path)
    codec = load_codec(run or _find_run(path), choose_device(device))
    codec.require_codes()
    files = [codec.open(file) for file in paths]
    total = sum(len(file) for file in files)
    if content == "masks":
        _write_masks(codec, files, out, overwrite, reporter, total)
    else:
        _write_features(codec, files, out, overwrite, reporter, total)
    return {"run": codec.folder.name, "content": content, "images": total, "out": str(out)}


def _batches(files: list[CodesFile]) -> Iterator[tuple[tuple[str, ...], NDArray[np.int32]]]:
    for file in files:
        yield from file.batches(BATCH_IMAGES)


def _write_features(
    codec: RunCodec,
    files: list[CodesFile],
    out: Path,
    overwrite: bool,
    reporter: Reporter,
    total: int,
) -> None:
    """Shards of the very embeddings that `extract-embeddings --format quantized` writes."""
    identity = {
        "content": "quantized", "run": codec.folder.name, "run_digest": codec.digest,
        "source": "codes", "dtype": "float32", "space": codec.space,
    }  # fmt: skip
    output = ShardedOutput(out, identity, overwrite=overwrite)
    if output.shards:
        raise UsageError(f"{out} holds decoded features already: --overwrite replaces them.")
    buffer = ShardBuffer(output, save_embeddings)
    with reporter.track("Decoding", total) as advance:
        for names, codes in _batches(files):
            buffer.add(names, codec.to_output(codec.features(codes)).float().cpu().numpy())
            advance(len(names), "")
    buffer.flush()
    output.finish()


def _write_masks(
    codec: RunCodec,
    files: list[CodesFile],
    out: Path,
    overwrite: bool,
    reporter: Reporter,
    total: int,
) -> None:
    palette = list(PALETTE) + [grey for index in range(3, 256) for grey in (index, index, index)]
    with reporter.track("Decoding", total) as advance:
        for names, codes in _batches(files):
            for name, mask in zip(names, codec.masks(codes), strict=True):
                path = _mask_path(out, name)
                if path.exists() and not overwrite:
                    raise UsageError(f"{path} exists: choose another --out, or --overwrite.")
                image = Image.fromarray(mask)
                image.putpalette(palette)
                with replacing(path) as temporary:
                    image.save(temporary, format="PNG", optimize=True)
            advance(len(names), "")


def _mask_path(out: Path, name: str) -> Path:
    """Where the mask of an image goes; a name that would leave `out` is refused."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in name:
        raise SqueezeError(f"The image name {name!r} would leave {out}: decode to features.")
    return out / relative.parent / f"{relative.name}.png"


def _code_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.exists():
        raise SqueezeError(f"There is no {path}: give a codes file or the folder of one.")
    manifest = read_manifest(path)
    if manifest["content"] != "codes":
        raise SqueezeError(f"{path} holds {manifest['content']}, no codes.")
    return [path / shard["file"] for shard in manifest["shards"]]


def _find_run(path: Path) -> Path:
    """The run's folder in which `path` lies; SqueezeError where it lies in none."""
    for parent in path.resolve().parents:
        if (parent / RECORD_NAME).exists():
            return parent
    raise SqueezeError(f"{path} lies in no run's folder: give the run that made it by --run.")
