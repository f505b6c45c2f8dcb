"""Bilinear upsampling of logits to full resolution: ours against `F.interpolate`, side by side.

python -m benchmarks.step --classes 21 --grid 7 --size 224 --batch-size 4
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from squeeze_cli.kernels.upsampling import upsample_bilinear


def step_ms(upsample: Callable[[Tensor], Tensor], maps: Tensor) -> float:
    """One forward and backward pass in milliseconds."""
    start = time.perf_counter()
    torch.autograd.grad(upsample(maps).square().mean(), maps)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    """Time both in turn, so that noise meets both; print the least of each and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--grid", type=int, default=7)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    size = (options.size, options.size)
    maps = torch.randn(options.batch_size, options.classes, options.grid, options.grid)
    maps.requires_grad_()

    def reference(logits: Tensor) -> Tensor:
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)

    def ours(logits: Tensor) -> Tensor:
        return upsample_bilinear(logits, size)

    pairs = [(step_ms(reference, maps), step_ms(ours, maps)) for _ in range(options.repeats + 3)]
    slow, fast = (min(times) for times in zip(*pairs[3:], strict=True))
    print(
        f"F.interpolate {slow:.2f} ms, ours {fast:.2f} ms a batch: {slow / fast:.1f} times as fast"
    )


if __name__ == "__main__":
    main()
