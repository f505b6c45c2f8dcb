"""The one pass that fills the feature store against the bare backbone, in images a second.

    python -m benchmarks.extraction --backbone vit --images 200 --data-dir ../shared/data

The store's pass is all that `squeeze train` does to an image before it trains: digest, decoding,
preprocessing, backbone, checksum, file. The bare backbone runs on one batch that is in memory
already, in inference mode, in the memory format (contiguous or channels-last) and at the batch size
that suit it best. All take turns, and the quickest of each counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.machine import show
from squeeze_cli.backbones import BACKBONES, create_backbone
from squeeze_cli.backbones.base import Backbone
from squeeze_cli.config import ModelConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.oxford_pet import OxfordPetSource
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.features.prepare import prepare_states
from squeeze_cli.training.devices import choose_workers

SIZE_PX = 224
BARE_BATCH_SIZES = (4, 8)
STORE = "the store's pass"


@torch.inference_mode()
def bare_rate(
    backbone: Backbone, images: int, memory_format: torch.memory_format, batch_size: int
) -> float:
    """Images a second of the backbone alone."""
    batch = torch.randn(batch_size, 3, SIZE_PX, SIZE_PX).to(memory_format=memory_format)
    backbone.extract_features(batch)
    steps = max(1, images // batch_size)
    start = time.perf_counter()
    for _ in range(steps):
        backbone.extract_features(batch)
    return steps * batch_size / (time.perf_counter() - start)


def store_rate(backbone: Backbone, samples: list[Sample], workers: int) -> float:
    """Images a second from files to a full store."""
    with tempfile.TemporaryDirectory(prefix="squeeze-benchmark-") as place:
        start = time.perf_counter()
        prepare_states(
            {"all": samples}, backbone, backbone.weights_digest(), Preprocessing(SIZE_PX),
            cache_dir=Path(place), layer="features", device=torch.device("cpu"), precision="32",
            num_workers=workers, reporter=Reporter(quiet=True),
        )  # fmt: skip
        return len(samples) / (time.perf_counter() - start)


def main() -> None:
    """Time, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", choices=list(BACKBONES), default="vit")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num-workers", type=int)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    samples: list[Sample] = list(OxfordPetSource(options.data_dir, False).samples("trainval"))
    samples = samples[: options.images]
    backbone = create_backbone(ModelConfig(backbone=options.backbone, weights="none"), SIZE_PX)
    workers = choose_workers(options.num_workers)
    rates: dict[str, float] = {}
    for _ in range(options.repeats):
        for name, layout in (
            ("contiguous", torch.contiguous_format), ("channels-last", torch.channels_last),
        ):  # fmt: skip
            for size in BARE_BATCH_SIZES:
                rate = bare_rate(backbone.to(memory_format=layout), len(samples) // 2, layout, size)
                label = f"bare backbone, {name}, batch size {size}"
                rates[label] = max(rates.get(label, 0.0), rate)
        rate = store_rate(backbone, samples, workers)
        rates[STORE] = max(rates.get(STORE, 0.0), rate)
    best = max(rate for name, rate in rates.items() if name != STORE)
    title = f"{options.backbone}, {len(samples)} photographs at {SIZE_PX} px, quickest of each"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("images/s", justify="right")
    table.add_column("of the bare backbone", justify="right")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.1f}", f"{rate / best:.2f}")
    figures: dict[str, Any] = {
        "backbone": options.backbone,
        "images": len(samples),
        "num_workers": workers,
        "images_a_second": rates,
        "share_of_bare": rates[STORE] / best,
    }
    show(table, figures, options.json)


if __name__ == "__main__":
    main()
