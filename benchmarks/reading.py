"""Feature vectors per second from codes and from other formats of features, with bytes on disk.

    python -m benchmarks.reading runs/vq --images 5000

The codes are those of the run's test split, whose images are repeated under other names. Decoded features
are also written as float16: one `.npy` file, which is memory-mapped, and tar shards with an `.npy` file
per image, which webdataset reads. Each reader yields batches of float32, in order (streaming) and, except
for the tar shards, at random positions, in one process on one core. Rates are per second of processor
time, because other jobs may share the machine; the files are in the page cache. The images of the split
pass the run's backbone, as in an epoch without stored features.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.machine import figures_table, show
from squeeze_cli.api import CodesDataset
from squeeze_cli.codec.manifest import Settings, record_of
from squeeze_cli.console import Reporter
from squeeze_cli.data.samples import Sample
from squeeze_cli.inference.decode import decode_codes
from squeeze_cli.inference.output_folder import OutputFolder
from squeeze_cli.inference.request import Coding
from squeeze_cli.inference.trained_run import TrainedRun

BATCH_IMAGES = 64
IMAGES_PER_SHARD = 1000


def one_core() -> None:
    """Keep this process, with the threads of all its libraries, on one core."""
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def write_tars(maps: np.ndarray, names: list[str], folder: Path) -> None:
    """Write tar shards as webdataset expects them: NAME.npy for each image."""
    folder.mkdir()
    for begin in range(0, len(maps), IMAGES_PER_SHARD):
        with tarfile.open(folder / f"{begin // IMAGES_PER_SHARD:05d}.tar", "w") as archive:
            for name, values in zip(
                names[begin:], maps[begin : begin + IMAGES_PER_SHARD], strict=False
            ):
                content = io.BytesIO()
                np.save(content, values)
                member = tarfile.TarInfo(f"{name}.npy")
                member.size = len(content.getvalue())
                archive.addfile(member, io.BytesIO(content.getvalue()))


def from_images(run: TrainedRun, samples: list[Sample]) -> Iterator[torch.Tensor]:
    """Yield the features of images, computed by the backbone."""
    data = run.data({"images": samples}, Reporter(quiet=True))
    with torch.inference_mode():
        for batch in data.batches("images", data.origin.inference_batch):
            yield run.network.features(batch[0])


def from_codes(data: CodesDataset, order: np.ndarray | None = None) -> Iterator[torch.Tensor]:
    """Yield batches of decoded features, in order or in a given order."""
    if order is None:
        yield from data.stream(batch_size=BATCH_IMAGES)
    else:
        yield from DataLoader(data, batch_size=BATCH_IMAGES, sampler=order.tolist())


def from_npy(maps: np.ndarray, order: np.ndarray) -> Iterator[torch.Tensor]:
    """Yield batches of a memory-mapped array, in a given order, as float32."""
    for begin in range(0, len(order), BATCH_IMAGES):
        chosen = maps[order[begin : begin + BATCH_IMAGES]]
        yield torch.from_numpy(chosen.astype(np.float32)).permute(0, 3, 1, 2)


def from_tars(folder: Path) -> Iterator[torch.Tensor]:
    """Yield batches that webdataset reads, as float32."""
    import webdataset

    files = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = webdataset.WebDataset(files, shardshuffle=False).decode().to_tuple("npy")
    for (maps,) in samples.batched(BATCH_IMAGES):
        yield torch.from_numpy(np.asarray(maps, np.float32)).permute(0, 3, 1, 2)


def rate(batches: Iterator[torch.Tensor]) -> float:
    """Return vectors per second of processor time."""
    start, vectors = time.process_time(), 0
    for maps in batches:
        vectors += maps.shape[0] * maps.shape[2] * maps.shape[3]
    return vectors / (time.process_time() - start)


def write_codes(run: TrainedRun, codes: np.ndarray, names: list[str], folder: Path) -> None:
    """Write a folder of codes of each coding, as `squeeze extract-embeddings` does."""
    count = -(-len(names) // IMAGES_PER_SHARD)
    for coding in get_args(Coding):
        settings = Settings(
            content="codes", run=run.folder.name, run_digest=run.digest, source="features", plan="",
            images_per_shard=IMAGES_PER_SHARD, coding=coding, space=run.space,
        )  # fmt: skip
        output = OutputFolder(
            folder / coding, settings, count, range(count), Reporter(quiet=True), False
        )
        with output.claimed():
            for number in range(count):
                chosen = slice(number * IMAGES_PER_SHARD, (number + 1) * IMAGES_PER_SHARD)
                content = run.encode(codes[chosen], names[chosen], coding)
                images = len(names[chosen])
                output.write(content, record_of(settings, number, count, content, images))
            output.finish()


def write_all(run: TrainedRun, codes: np.ndarray, images: int, folder: Path) -> None:
    """Write codes of this number of images, and decoded features as float16 .npy and tar shards."""
    names = [f"image-{number:06d}" for number in range(images)]
    write_codes(run, codes[np.arange(images) % len(codes)], names, folder)
    decode_codes(
        folder / "packed", "features", folder / "npy", Reporter(quiet=True), run=run.folder.path,
        device="cpu", form="npy", dtype="float16",
    )  # fmt: skip
    write_tars(np.load(folder / "npy" / "features.npy", mmap_mode="r"), names, folder / "tars")


def measure(run: TrainedRun, images: int, folder: Path) -> dict[str, dict[str, float]]:
    """Use each reader once; return rates and bytes on disk per image by name."""
    samples = list(run.splits(Reporter(quiet=True)).test)
    rates = {"images through the backbone": rate(from_images(run, samples))}
    image_bytes = sum(sample.image_path.stat().st_size for sample in samples) / len(samples)
    codes = np.concatenate([run.codes(maps) for maps in from_images(run, samples)])
    write_all(run, codes, images, folder)
    order = np.random.default_rng(0).permutation(images)
    for coding in ("prior", "packed"):
        data = CodesDataset(folder / coding, run=run.folder.path)
        rates[f"codes, {coding}: streaming"] = rate(from_codes(data))
        rates[f"codes, {coding}: random, first epoch"] = rate(from_codes(data, order))
        rates[f"codes, {coding}: random, later epochs"] = rate(from_codes(data, order[::-1]))
    maps = np.load(folder / "npy" / "features.npy", mmap_mode="r")
    rates["float16 .npy, mapped: streaming"] = rate(from_npy(maps, np.arange(images)))
    rates["float16 .npy, mapped: random"] = rate(from_npy(maps, order))
    rates["float16 .npy in tars, webdataset: streaming"] = rate(from_tars(folder / "tars"))
    sizes = {"images": image_bytes}
    for start, name in (
        ("codes, prior", "prior"), ("codes, packed", "packed"), ("float16 .npy, mapped", "npy"),
        ("float16 .npy in tars", "tars"),
    ):  # fmt: skip
        files = [path.stat().st_size for path in (folder / name).iterdir()]
        sizes[start] = sum(files) / images
    return {
        name: {
            "vectors_per_second": found,
            "bytes_per_image": next(
                size for start, size in sizes.items() if name.startswith(start)
            ),
        }
        for name, found in rates.items()
    }


def main() -> None:
    """Write, read, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run with codes")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--data-dir", type=Path, help="default: that of the run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    one_core()
    values: dict[str, object] = {"training.device": "cpu", "data.use_cache": False}
    if options.data_dir is not None:
        values["data.data_dir"] = str(options.data_dir)
    run = TrainedRun(options.run, values)
    with tempfile.TemporaryDirectory(prefix="squeeze-benchmark-") as place:
        figures = measure(run, options.images, Path(place))
    channels, (rows, columns) = run.record.model.feature_dim, run.record.quantizer.grid
    title = (
        f"{run.record.quantizer.type}, {run.record.model.backbone}, {options.images:,} images of "
        f"{rows} x {columns} vectors of {channels} channels, on one core"
    )
    table = figures_table(title, ("", "vectors per second", "bytes per image on disk"))
    for name, each in figures.items():
        table.add_row(name, f"{each['vectors_per_second']:,.0f}", f"{each['bytes_per_image']:,.1f}")
    found: dict[str, Any] = {"run": run.folder.name, "images": options.images, "ways": figures}
    show(table, found, options.json)


if __name__ == "__main__":
    main()
