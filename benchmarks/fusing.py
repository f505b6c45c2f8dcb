"""Backbones with and without batch normalization in their convolutions: time and difference.

    python -m benchmarks.fusing efficientnet-lite0 deeplab timm:mobilenetv3_small_100

Both networks take turns on the same images in one thread, channels last, and the least processor time
of each counts. The difference is the largest of any feature, in standard deviations of the features.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.machine import figures_table, show, weights_at_hand
from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.fusing import fuse_batch_norms
from squeeze_cli.config.schema import ModelConfig

SIZE_PX = (224, 224)


def norms(network: nn.Module) -> int:
    """Number of batch normalizations."""
    return sum(isinstance(each, nn.BatchNorm2d) for each in network.modules())


@torch.inference_mode()
def compare(name: str, images: int, repeats: int) -> dict[str, Any]:
    """Figures of a backbone; random weights but for EfficientNet-Lite0, whose weights are at hand."""
    model = ModelConfig(backbone=name, weights=weights_at_hand(name))
    plain = create_backbone(model, SIZE_PX).network
    fused = fuse_batch_norms(plain, torch.randn(1, 3, *SIZE_PX))
    batch = torch.randn(images, 3, *SIZE_PX).to(memory_format=torch.channels_last)
    networks = [each.to(memory_format=torch.channels_last) for each in (plain, fused)]
    expected, found = (network(batch) for network in networks)
    seconds = [float("inf")] * 2
    for _ in range(repeats):
        for number, network in enumerate(networks):
            start = time.process_time()
            network(batch)
            seconds[number] = min(seconds[number], time.process_time() - start)
    return {
        "normalizations": norms(plain),
        "left": norms(fused),
        "plain_ms": 1000 * seconds[0] / images,
        "fused_ms": 1000 * seconds[1] / images,
        "difference": float((found - expected).abs().max() / expected.std()),
    }


def main() -> None:
    """Compare, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("backbones", nargs="+", metavar="NAME")
    parser.add_argument("--images", type=int, default=8, help="images per batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    headings = ("", "normalizations", "left", "plain ms", "fused ms", "ratio", "difference")
    table = figures_table("Fused batch normalization", headings)
    figures = {}
    for name in options.backbones:
        figures[name] = row = compare(name, options.images, options.repeats)
        table.add_row(
            name, str(row["normalizations"]), str(row["left"]), f"{row['plain_ms']:.1f}",
            f"{row['fused_ms']:.1f}", f"{row['fused_ms'] / row['plain_ms']:.2f}",
            f"{row['difference']:.0e}",
        )  # fmt: skip
    show(table, figures, options.json)


if __name__ == "__main__":
    main()
