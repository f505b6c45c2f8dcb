"""Head with project_out folded in, compared with project_out and the plain head: forward and backward.

    python -m benchmarks.folding --batch-size 4

Each head is computed in two ways, from code vectors to logits and back to the gradients of code vectors,
project_out and head:

- plain: project_out computes all channels, and a plain head follows (for DeepLab torchvision's
  DeepLabHead);
- folded: squeeze's head, with project_out folded into the first convolutions.

Differences are the largest of any logit, and of any gradient entry relative to the largest entry of that
gradient.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks.machine import show
from benchmarks.plain_loop import make_head
from squeeze_cli.heads.base import ConvolutionalHead, SegmentationHead
from squeeze_cli.heads.deeplab_head import DeepLabSegmentationHead
from squeeze_cli.kernels.folding import AffineMap

WARM_UP = 2
HEADS: dict[str, tuple[type[SegmentationHead], int, int, int]] = {
    # class, channels, grid at 224 px, classes
    "vit": (ConvolutionalHead, 768, 7, 21),
    "deeplab": (DeepLabSegmentationHead, 2048, 28, 3),
}


@dataclass(frozen=True)
class Way:
    """Least time per image of one way, and the difference of its results to the plain ones."""

    ms_an_image: float
    logit_difference: float
    gradient_difference: float


def ways(
    head: SegmentationHead, plain_head: nn.Module, projection: nn.Linear
) -> dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """Return for each way its head, and the function from code vectors `[B, d, h, w]` to logits."""

    def project(vectors: Tensor) -> Tensor:
        features: Tensor = projection(vectors.permute(0, 2, 3, 1))
        return features.permute(0, 3, 1, 2)

    def plain(vectors: Tensor) -> Tensor:
        logits: Tensor = plain_head(project(vectors).contiguous())
        return logits

    def folded(vectors: Tensor) -> Tensor:
        return head(vectors, AffineMap(projection.weight, projection.bias))

    return {"plain": (plain_head, plain), "folded": (head, folded)}


def step(way: Callable[[Tensor], Tensor], vectors: Tensor) -> tuple[float, Tensor]:
    """Return milliseconds and logits of a forward and backward pass."""
    start = time.perf_counter()
    logits = way(vectors)
    logits.square().mean().backward()  # type: ignore[no-untyped-call]
    return (time.perf_counter() - start) * 1000, logits.detach()


def take_gradients(head: nn.Module, others: list[Tensor]) -> list[Tensor]:
    """Return and clear the gradients of `others`, and of the head's weights in the order of its state."""
    parameters = list(head.parameters())
    weights = [p.data for p in parameters]
    for parameter in parameters:  # unused parameters have no gradient
        given = parameter.grad
        parameter.data = torch.zeros_like(parameter) if given is None else given
    named = dict(head.named_buffers())
    gradients = [tensor.clone() for name, tensor in head.state_dict().items() if name not in named]
    for parameter, weight in zip(parameters, weights, strict=True):
        parameter.data, parameter.grad = weight, None
    for tensor in others:
        assert tensor.grad is not None
        gradients.append(tensor.grad)
        tensor.grad = None
    return gradients


def compare(name: str, options: argparse.Namespace) -> dict[str, Way]:
    """Measure all ways of one head, in turn."""
    kind, channels, grid, classes = HEADS[name]
    torch.manual_seed(0)
    head, plain_head = kind(channels, classes), make_head(name, channels, classes)
    state = zip(plain_head.state_dict(), head.state_dict().values(), strict=True)
    plain_head.load_state_dict(dict(state))
    for module in (*head.modules(), *plain_head.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # or each way would draw its own
    projection = nn.Linear(options.bottleneck_dim, channels)
    vectors = torch.randn(options.batch_size, grid, grid, options.bottleneck_dim)
    vectors = vectors.permute(0, 3, 1, 2).requires_grad_()
    each = ways(head, plain_head, projection)
    least = dict.fromkeys(each, float("inf"))
    outcomes: dict[str, tuple[Tensor, list[Tensor]]] = {}
    for number in range(options.repeats + WARM_UP):
        for label, (module, way) in each.items():
            ms, logits = step(way, vectors)
            outcomes[label] = logits, take_gradients(module, [vectors, *projection.parameters()])
            if number >= WARM_UP:
                least[label] = min(least[label], ms)
    logits, gradients = outcomes["plain"]
    return {
        label: Way(
            least[label] / options.batch_size,
            float((outcomes[label][0] - logits).abs().max()),
            max(_relative(a, b) for a, b in zip(outcomes[label][1], gradients, strict=True)),
        )
        for label in each
    }


def _relative(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).abs().max() / reference.abs().max().clamp_min(1e-12))


def main() -> None:
    """Time, compare, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--bottleneck-dim", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    title = f"Head, forward and backward, batch size {options.batch_size}, least of each"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("head")
    table.add_column("way")
    for heading in ("ms per image", "ratio", "logits differ by", "gradients by"):
        table.add_column(heading, justify="right")
    figures: dict[str, Any] = {"batch_size": options.batch_size}
    for name in HEADS:
        found = compare(name, options)
        figures[name] = {label: asdict(way) for label, way in found.items()}
        for label, way in found.items():
            table.add_row(
                name,
                label,
                f"{way.ms_an_image:.1f}",
                f"{way.ms_an_image / found['plain'].ms_an_image:.2f}",
                f"{way.logit_difference:.0e}",
                f"{way.gradient_difference:.0e}",
            )
    show(table, figures, options.json)


if __name__ == "__main__":
    main()
