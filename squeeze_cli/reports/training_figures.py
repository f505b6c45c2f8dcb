"""Figures of one training: its curves, and how its codes are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from squeeze_cli.config.record import EpochMetrics
from squeeze_cli.reports.figures import COLOURS, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LEVELS = 16
# A curve of a huge codebook is drawn through this many of its codes.
MOST_STEPS = 4096


def curves_figure(history: Sequence[EpochMetrics], best: int | None) -> Figure:
    """Loss and mean IoU of both splits by epoch, with the epoch that was chosen.

    Args:
        history: the record's metrics of each epoch.
        best: the index of the chosen epoch.
    """
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    epochs = [entry.epoch + 1 for entry in history]
    marker = "o" if len(epochs) == 1 else ""
    for axis, name, scale, title in zip(
        figure.subplots(1, 2), ("loss", "iou"), (1, 100), ("loss", "mean IoU in %"), strict=True
    ):
        for split, colour in (("train", COLOURS[5]), ("val", COLOURS[0])):
            # A diverged epoch's figure is None, which becomes a gap in the line.
            values = scale * np.array(
                [getattr(getattr(entry, split), name) for entry in history], dtype=float
            )
            axis.plot(epochs, values, color=colour, marker=marker, label=split)
        if best is not None:
            axis.axvline(best + 1, color=GREY, linestyle=":", label="chosen epoch")
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        _plain(axis)
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure


def codebook_figure(counts: Sequence[NDArray[np.int64]]) -> Figure:
    """Shares of the codes, most frequent first, a panel for each of a vector's codes.

    The dashed line is even use. Perplexity is 2 to the entropy of the shares (Jelinek et al., 1977):
    how many codes used evenly would say as much.

    Args:
        counts: for each code of a vector, how often each of its values was used.
    """
    shown = counts[:MOST_LEVELS]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3.2 * columns + 0.6, 2.5 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(shown) :]:
        axis.remove()
    for level, (axis, values) in enumerate(zip(axes, shown, strict=False)):
        name = f"code {level + 1} of {len(counts)}: " if len(counts) > 1 else ""
        _draw_shares(axis, values, name)
    figure.supxlabel("values by rank", fontsize="medium")
    figure.supylabel("share of vectors", fontsize="medium")
    return figure


def _draw_shares(axis: Axes, counts: NDArray[np.int64], name: str) -> None:
    shares = np.sort(counts)[::-1] / max(1, counts.sum())
    size = len(shares)
    used = shares[shares > 0]
    perplexity = 2 ** -(used * np.log2(used)).sum() if len(used) else 0
    edges = np.unique(np.linspace(0, size, min(size, MOST_STEPS) + 1).astype(int))
    axis.stairs(shares[edges[:-1]], edges, fill=True, color=COLOURS[0])
    axis.axhline(1 / size, color=GREY, linestyle="--", linewidth=1)
    axis.set_xlim(0, size)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axis.set_title(
        f"{name}{len(used)} of {size} used,\nperplexity {perplexity:.0f}", fontsize="small"
    )
    _plain(axis)


def _plain(axis: Axes) -> None:
    axis.grid(color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
