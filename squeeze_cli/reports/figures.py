"""Figures of matplotlib: curves and codebook of a training, and predicted masks.

They are drawn without a display and without pyplot's global state. Functions import matplotlib,
which takes a second.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.config.classes import BACKGROUND, ClassTable
from squeeze_cli.config.record import EpochMetrics, RunRecord
from squeeze_cli.console import printable
from squeeze_cli.files import FIGURE_MARK, write_atomically
from squeeze_cli.reports.tables import fixed, number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour-blind people can tell these apart (Okabe and Ito, 2008, https://jfly.uni-koeln.de/color/; the
# last is wine of Tol, 2021, https://sronpersonalpages.nl/~pault/).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255")
GREY = "#666666"
DPI = 150
# Limits on the panels in a figure of codebooks, and on the steps in a panel.
MOST_LEVELS, MOST_STEPS = 16, 4096
OPACITY = 0.6
CELL_INCHES = 1.5
NAME_CHARACTERS = 20


def save_figure(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Write the figure atomically, as png or svg by the ending of `path`.

    The same figure gives the same bytes, without a date or random ids. Raises SqueezeError if the file
    cannot be written.
    """
    from matplotlib import rc_context

    suffix = path.suffix.lower().removeprefix(".")
    svg = {"Creator": FIGURE_MARK, "Date": None}
    metadata = svg if suffix == "svg" else {"Software": FIGURE_MARK}
    content = BytesIO()
    with rc_context({"svg.hashsalt": "squeeze"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # names in letters that the font lacks
        figure.savefig(content, format=suffix, dpi=dpi, metadata=metadata)
    write_atomically(path, content.getbuffer())


def curves_figure(history: Sequence[EpochMetrics], best: int | None) -> Figure:
    """Draw loss and mean IoU of both splits by epoch, and mark `best`, the chosen epoch's index.

    Without a segmentation head, the MSE replaces the mean IoU.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    epochs = [metrics.epoch + 1 for metrics in history]
    segments = any(epoch.val.iou is not None for epoch in history)
    quality = "mean IoU in %" if segments else "MSE of normalized features"
    for axis, name in zip(figure.subplots(1, 2), ("loss", quality), strict=True):
        for split, colour in (("train", COLOURS[5]), ("val", COLOURS[0])):
            field = "loss" if name == "loss" else "iou" if segments else "mse"
            # The loss of a diverged epoch is None, which becomes a gap in the line.
            values = np.array([getattr(getattr(m, split), field) for m in history], dtype=float)
            axis.plot(epochs, 100 * values if field == "iou" else values, color=colour, label=split,
                      marker="o" if len(epochs) == 1 else "")  # fmt: skip
        if best is not None:
            axis.axvline(best + 1, color=GREY, linestyle=":", label="chosen epoch")
        axis.set_title(name, fontsize="medium")
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        style_axes(axis)
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure


def codebook_figure(counts: Sequence[NDArray[np.int64]]) -> Figure:
    """Draw the shares of values, most frequent first, one panel for each code of a vector.

    The dashed line is even use. Perplexity is 2 to the entropy of the shares (Jelinek et al., 1977).
    `counts` has the counts of the values of each code of a vector.
    """
    shown = counts[:MOST_LEVELS]
    figure, axes = grid_of_axes(len(shown), 4, (3.2, 2.5))
    for level, (axis, values) in enumerate(zip(axes, shown, strict=True)):
        name = f"code {level + 1} of {len(counts)}: " if len(counts) > 1 else ""
        _draw_shares(axis, values, name)
    figure.supxlabel("values by rank", fontsize="medium")
    figure.supylabel("share of vectors", fontsize="medium")
    return figure


def _draw_shares(axis: Axes, counts: NDArray[np.int64], name: str) -> None:
    from matplotlib.ticker import PercentFormatter

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
    style_axes(axis)


@dataclass(frozen=True)
class PredictedMask:
    """A run's prediction for one image.

    Attributes:
        truth: `[H, W]` uint8, class indices; IGNORE_INDEX where unknown.
        predicted: `[H, W]` uint8, indices of the head's outputs.
        iou: Mean IoU of this image alone; None if none of its pixels is labelled.
    """

    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    iou: float | None


def predictions_figure(
    pictures: Mapping[str, NDArray[np.uint8]], predictions: Sequence[Sequence[PredictedMask]],
    titles: Sequence[str], classes: ClassTable,
) -> Figure:  # fmt: skip
    """Draw a column per image: its pixels, the ground truth, and a row of predictions for each run.

    Classes have the colours of the table; the background, and outputs beyond the table, have none.

    Args:
        pictures: Pixels `[H, W, 3]` of each image by its name.
        predictions: For each image, one mask per run.
        titles: Title of each run's row.
        classes: Classes of the data set.
    """
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = [[masks[0].truth, *(mask.predicted for mask in masks)] for masks in predictions]
    shown = {value for column in columns for mask in column for value in np.unique(mask)}
    overlay = np.zeros((256, 4))  # the colour of each class, transparent for most
    patches = []
    for value, (name, rgb) in enumerate(zip(classes.names, classes.colours, strict=True)):
        if name.lower() != BACKGROUND and value in shown:
            colour = f"#{bytes(rgb).hex()}"
            overlay[value] = to_rgba(colour, OPACITY)
            patches.append(Patch(color=colour, label=name))
    titles = ["image", "ground truth", *titles]
    rows = len(titles)
    height, width = columns[0][0].shape
    cell_inches = CELL_INCHES * height / width
    size = (CELL_INCHES * len(columns) + 0.3, (cell_inches + 0.15) * rows + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for (name, pixels), masks, column, own_axes in zip(
        pictures.items(), predictions, columns, axes.T, strict=True
    ):
        for axis in own_axes:
            axis.imshow(pixels)
            axis.set(xticks=[], yticks=[])
        for axis, mask in zip(own_axes[1:], column, strict=True):
            axis.imshow(overlay[mask])
        for axis, prediction in zip(own_axes[2:], masks, strict=True):
            axis.set_xlabel(f"IoU {percent(prediction.iou)}", fontsize=7, labelpad=2)
        title = printable(name)
        title = title if len(title) <= NAME_CHARACTERS else f"…{title[1 - NAME_CHARACTERS :]}"
        own_axes[0].set_title(title, fontsize=7, pad=3, parse_math=False)
    for axis, title in zip(axes[:, 0], titles, strict=True):
        axis.set_ylabel(title, fontsize=8)
    legend = figure.legend(
        handles=patches, loc="outside lower center", ncols=min(len(columns), 4) + 1,
        frameon=False, fontsize=7,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def run_title(record: RunRecord) -> str:
    """Return the title of a run: its quantizer, and its measured or nominal rate."""
    quantizer = record.quantizer
    if quantizer is None or not quantizer.code_sizes:
        return "baseline" if record.kind == "baseline" else "none"
    if record.measured is not None:
        return f"{quantizer.type}\n{fixed(record.measured.test.bits_per_vector, 2)} bits per vector"
    return f"{quantizer.type}\n{number(quantizer.nominal_bits_per_vector)} nominal bits"


def grid_of_axes(
    count: int, most_columns: int, inches: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its `count` axes, in rows of up to `most_columns`."""
    from matplotlib.figure import Figure

    columns = min(most_columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(inches[0] * columns, inches[1] * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(count)]


def style_axes(axis: Axes) -> None:
    """Draw a light grid, and no frame at the top and on the right."""
    axis.grid(color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
