"""Seconds per image of backbones on the processor, for the table in docs/backbones.md.

    python -m benchmarks.backbones
    python -m benchmarks.backbones timm:vit_tiny_patch16_224 --image-size 448

Weights are random, because speed does not depend on them. Images pass one at a time, and the quickest of
several passes counts; all backbones have images of the same size.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.machine import show
from squeeze_cli.backbones import create_backbone
from squeeze_cli.config.schema import DataConfig, ModelConfig

FAMILIES = {
    "timm:vit_tiny_patch16_224": "ViT",
    "timm:vit_small_patch14_dinov2": "ViT, DINOv2",
    "timm:vit_small_patch14_reg4_dinov2": "ViT with registers, DINOv2",
    "timm:vit_small_patch16_dinov3": "ViT with rotary positions, DINOv3",
    "timm:vit_base_patch16_siglip_224": "ViT, SigLIP",
    "timm:swin_tiny_patch4_window7_224": "Swin",
    "timm:convnext_tiny": "ConvNeXt",
    "timm:efficientnet_b0": "EfficientNet",
    "timm:resnet50": "ResNet",
    "vit": "ViT",
    "deeplab": "ResNet, dilated",
    "efficientnet-lite0": "EfficientNet",
}


@torch.inference_mode()
def seconds_per_image(backbone: torch.nn.Module, height: int, width: int, passes: int) -> float:
    """Return the quickest of several passes of one image."""
    image = torch.randn(1, 3, height, width).to(memory_format=torch.channels_last)
    backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seconds = []
    for _ in range(passes):
        start = time.perf_counter()
        backbone(image)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Time, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--image-size", default="224")
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    height, width = DataConfig.model_validate({"image_size": options.image_size}).size_px
    rows, figures = [], {}
    for name in options.names:
        backbone = create_backbone(ModelConfig(backbone=name, weights="none"), (height, width))
        seconds = seconds_per_image(backbone.network, height, width, options.passes)
        figures[name] = seconds
        rows.append(
            f"| {FAMILIES.get(name, '')} | `{name}` | {backbone.feature_dim} | {backbone.stride} "
            f"| {backbone.vectors_per_image} | {seconds:.3f} |"
        )
    head = "| family | `--model` | channels | stride | vectors | seconds per image |\n"
    table = head + "|---|---|---:|---:|---:|---:|\n" + "\n".join(rows)
    show(table, {"image_size": options.image_size, "seconds_per_image": figures}, options.json)


if __name__ == "__main__":
    main()
