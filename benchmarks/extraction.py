"""Speed of filling the feature store, or of extraction, compared with the backbone alone.

    python -m benchmarks.extraction --backbone vit --images 200 --data-dir ../shared/data
    python -m benchmarks.extraction --backbone vit --command 4000 --num-workers 2

Filling the store includes all steps of `squeeze train` before the first epoch: digest, decoding,
preprocessing, backbone, checksum, file. The backbone alone runs on one batch in memory, in inference
mode, with its best memory format (contiguous or channels-last) and batch size. Both alternate, and the
quickest turn of each counts. `--precision bf16` applies to both. The last line is the deviation of the
features from those of the backbone alone in float32.

With `--command N` the whole command `squeeze extract-embeddings` is measured instead, from its start to
its end, on a list of N images that repeats the photographs. Its run is a vq that was trained for one
epoch, because the time does not depend on the weights.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Group

from benchmarks.machine import figures_table, show, weights_at_hand
from benchmarks.processes import Family, measure
from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.base import BackboneNetwork, FrozenBackbone
from squeeze_cli.config.parts import BACKBONES
from squeeze_cli.config.schema import DataConfig, ModelConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.images import choose_workers
from squeeze_cli.data.known_sets import OxfordPetSource
from squeeze_cli.data.samples import FileSample, Sample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.features.prepare import Ranks, Trunk, prepare_states
from squeeze_cli.features.store import FeatureStore, StoreKey

EXECUTABLE = Path(sys.executable).parent / "squeeze"
SIZE_PX = 224
DEVIATION_IMAGES = 8
STORE = "the store's pass"
COMMAND = "squeeze extract-embeddings"


@torch.inference_mode()
def bare_rate(
    backbone: BackboneNetwork,
    images: int,
    memory_format: torch.memory_format,
    batch_size: int,
    precision: str,
    device: torch.device,
) -> float:
    """Return images per second of the backbone alone, which is on the device."""
    batch = torch.randn(batch_size, 3, SIZE_PX, SIZE_PX).to(device, memory_format=memory_format)
    steps = max(1, images // batch_size)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        backbone(batch).sum().item()
        start = time.perf_counter()
        for _ in range(steps):
            result = backbone(batch)
        result.sum().item()  # waits for a GPU
        return steps * batch_size / (time.perf_counter() - start)


@torch.inference_mode()
def deviation(
    backbone: FrozenBackbone, samples: list[Sample], precision: str, device: torch.device
) -> float:
    """Return the RMS deviation from the features of the backbone alone, relative to their spread."""
    preprocessing = Preprocessing((SIZE_PX, SIZE_PX))
    images = [sample.read().decode() for sample in samples[:DEVIATION_IMAGES]]
    pixels = torch.stack([preprocessing.pixels(image) for image in images])
    exact = backbone.network.cpu()(preprocessing.normalize(pixels))
    trunk = Trunk(backbone, "features", preprocessing, device, precision)
    given = trunk.states(pixels.to(device)).cpu()
    spread = (exact - exact.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
    return float(((given - exact).square().mean() / spread).sqrt())


def store_rate(
    backbone: FrozenBackbone,
    samples: list[Sample],
    workers: int,
    precision: str,
    device: torch.device,
) -> float:
    """Return images per second from files to a full store."""
    with tempfile.TemporaryDirectory(prefix="squeeze-benchmark-") as place:
        start = time.perf_counter()
        preprocessing = Preprocessing((SIZE_PX, SIZE_PX))
        digest = backbone.weights.digest
        key = StoreKey(backbone.name, digest, "features", preprocessing.key(), precision)
        prepare_states(
            samples,
            Trunk(backbone, "features", preprocessing, device, precision, workers),
            FeatureStore(Path(place), key),
            Reporter(quiet=True),
            Ranks(),
        )  # fmt: skip
        return len(samples) / (time.perf_counter() - start)


@torch.inference_mode()
def bare_cpu_seconds(backbone: BackboneNetwork, images: int, batch_size: int) -> float:
    """Return processor seconds per image of the backbone alone, in one thread, channels last."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    batch = torch.randn(batch_size, 3, SIZE_PX, SIZE_PX).to(memory_format=torch.channels_last)
    network = backbone.to(memory_format=torch.channels_last)
    network(batch)
    start = time.process_time()
    for _ in range(images // batch_size):
        network(batch)
    seconds = time.process_time() - start
    torch.set_num_threads(threads)
    return seconds / (images // batch_size * batch_size)


def command_rate(
    name: str, weights: str, samples: list[Sample], count: int, workers: int, device: torch.device
) -> tuple[float, float]:
    """Return images per second, and processor seconds per image, of the whole command."""
    with tempfile.TemporaryDirectory(prefix="squeeze-benchmark-") as place:
        folder = Path(place)
        paths = [s.image_path for s in samples if isinstance(s, FileSample)]
        lines = [f"image_{i}\t{paths[i % len(paths)].resolve()}\n" for i in range(count)]
        (folder / "images.txt").write_text("".join(lines), encoding="utf-8")
        measure(
            [str(EXECUTABLE), "train", "--model", name, "--weights", weights, "--dataset", "synthetic",
             "--subset-size", "20", "--epochs", "1", "--image-size", str(SIZE_PX), "--quiet",
             "--output-dir", place, "--name", "run", "--cache-dir", f"{place}/cache"]
        )  # fmt: skip
        start = time.perf_counter()
        process = subprocess.Popen(
            [EXECUTABLE, "extract-embeddings", folder / "run", "--images", folder / "images.txt",
             "--out", folder / "codes", "--num-workers", str(workers), "--device", device.type, "--quiet"]
        )  # fmt: skip
        family = Family(process.pid)
        while process.poll() is None:
            family.look()
            time.sleep(0.1)
        if process.returncode:
            raise RuntimeError(f"the command ended with {process.returncode}")
        return count / (time.perf_counter() - start), family.cpu_s / count


def main() -> None:
    """Time, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", type=BACKBONES.check, metavar="NAME", default="vit")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num-workers", type=int)
    parser.add_argument("--command", type=int, metavar="N", help="measure the command on N images")
    parser.add_argument("--bare-images", type=int, default=100, help="for the backbone alone")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument(
        "--batch-sizes", nargs="+", type=int, default=[4, 8], help="of the backbone"
    )
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    samples: list[Sample] = list(
        OxfordPetSource(DataConfig(data_dir=str(options.data_dir))).listing(download=False).train
    )
    samples = samples[: options.images]
    weights = weights_at_hand(options.backbone)
    backbone = create_backbone(
        ModelConfig(backbone=options.backbone, weights=weights), (SIZE_PX, SIZE_PX)
    )
    workers, device = choose_workers(options.num_workers), options.device
    measured = COMMAND if options.command else STORE
    rates: dict[str, float] = {}
    for _ in range(options.repeats):
        for name, layout in (
            ("contiguous", torch.contiguous_format), ("channels-last", torch.channels_last),
        ):  # fmt: skip
            for size in options.batch_sizes:
                laid_out = backbone.network.to(device, memory_format=layout)
                rate = bare_rate(
                    laid_out, options.bare_images, layout, size, options.precision, device
                )
                label = f"bare backbone, {name}, batch size {size}"
                rates[label] = max(rates.get(label, 0.0), rate)
        if options.command:
            rate, cpu_s = command_rate(
                options.backbone, weights, samples, options.command, workers, device
            )
        else:
            rate = store_rate(backbone, samples, workers, options.precision, device)
        rates[measured] = max(rates.get(measured, 0.0), rate)
    best = max(rate for name, rate in rates.items() if name != measured)
    title = f"{options.backbone}, {len(samples)} photographs at {SIZE_PX} px, quickest of each"
    table = figures_table(title, ("", "images/s", "of the bare backbone"))
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.1f}", f"{rate / best:.2f}")
    figures: dict[str, Any] = {
        "backbone": options.backbone,
        "images": len(samples),
        "num_workers": workers,
        "images_a_second": rates,
        "share_of_bare": rates[measured] / best,
        "precision": options.precision,
        "deviation": deviation(backbone, samples, options.precision, device),
    }
    note = (
        f"Features in precision {options.precision}: {100 * figures['deviation']:.2g} % of their "
        f"spread from the bare backbone's in float32, over "
        f"{min(DEVIATION_IMAGES, len(samples))} photographs."
    )
    if options.command:
        bare_s = bare_cpu_seconds(backbone.network.cpu(), 64, backbone.inference_batch)
        figures |= {"command_images": options.command, "cpu_seconds_per_image": cpu_s,
                    "bare_cpu_seconds_per_image": bare_s}  # fmt: skip
        times = f"{1000 * cpu_s:.1f} ms, the bare backbone in one thread {1000 * bare_s:.1f} ms"
        note = (
            f"{options.command} images. The processor's time per image: {times}, {bare_s / cpu_s:.2f}. "
            f"{note}"
        )
    show(Group(table, note), figures, options.json)


if __name__ == "__main__":
    main()
