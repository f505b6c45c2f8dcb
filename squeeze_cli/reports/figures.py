"""Figures of matplotlib: curves and codebook of a training, rate against distortion of many.

They are drawn without a display and without pyplot's global state. Colours are those of Okabe and
Ito (2008, https://jfly.uni-koeln.de/color/), which stay apart for the colour-blind; markers differ
too. Matplotlib takes a second to import: the functions import it, not the module.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.config.record import EpochMetrics
from squeeze_cli.errors import SqueezeError
from squeeze_cli.files import replacing
from squeeze_cli.reports.rate_distortion import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#666666"
# Colour and marker of each quantizer, the same in every figure.
STYLES = dict(zip(QUANTIZERS, zip(COLOURS, "os^DvP", strict=True), strict=False))
DPI = 150
# A figure of codebooks has this many panels at most, and a panel this many steps.
MOST_LEVELS, MOST_STEPS = 16, 4096
PANEL_INCHES = (6.4, 4.2)
SEED_SIZE, SEED_ALPHA = 3.5, 0.45
MARKER_RADIUS_PX = 6
# Places of a label beside its point, the best first: offset in points.
LABEL_PLACES = ((7, -7), (8, 0), (0, -8), (-8, 0), (-7, 7), (0, 8), (7, 7), (-7, -7))
HORIZONTAL = {-1: "right", 0: "center", 1: "left"}
VERTICAL = {-1: "top", 0: "center", 1: "bottom"}


def save_figure(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Write the figure atomically, as png or svg by the ending of `path`.

    The same figure gives the same bytes: no date, no random ids. Raises SqueezeError where the file
    cannot be written.
    """
    from matplotlib import rc_context

    suffix = path.suffix.lower().removeprefix(".")
    metadata = {"Date": None} if suffix == "svg" else None
    try:
        with replacing(path) as temporary, rc_context({"svg.hashsalt": "squeeze"}):
            figure.savefig(temporary, format=suffix, dpi=dpi, metadata=metadata)
    except OSError as error:
        raise SqueezeError(f"Cannot write {path}: {error.strerror}; name another file.") from None


def curves_figure(history: Sequence[EpochMetrics], best: int | None) -> Figure:
    """Draw loss and mean IoU of both splits by epoch, and mark `best`, the chosen epoch's index."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    epochs = [metrics.epoch + 1 for metrics in history]
    for axis, name in zip(figure.subplots(1, 2), ("loss", "mean IoU in %"), strict=True):
        for split, colour in (("train", COLOURS[5]), ("val", COLOURS[0])):
            metrics = [epoch.train if split == "train" else epoch.val for epoch in history]
            values = [m.loss if name == "loss" else 100 * m.iou for m in metrics]
            # The loss of a diverged epoch is None, which becomes a gap in the line.
            axis.plot(epochs, np.array(values, dtype=float), color=colour, label=split,
                      marker="o" if len(epochs) == 1 else "")  # fmt: skip
        if best is not None:
            axis.axvline(best + 1, color=GREY, linestyle=":", label="chosen epoch")
        axis.set_title(name, fontsize="medium")
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _plain(axis)
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure


def codebook_figure(counts: Sequence[NDArray[np.int64]]) -> Figure:
    """Draw the shares of values, most frequent first, one panel for each code of a vector.

    The dashed line is even use. Perplexity is 2 to the entropy of the shares (Jelinek et al., 1977):
    the number of values that would carry as much information if they were used evenly. `counts` has
    for each code of a vector how often each of its values was used.
    """
    shown = counts[:MOST_LEVELS]
    figure, axes = _panels(len(shown), 4, (3.2, 2.5))
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
    _plain(axis)


def rate_distortion_figure(panels: Sequence[Panel]) -> Figure:
    """Draw measured bits per vector (log axis) against test mIoU, one panel for each setting.

    A large marker is the mean over the seeds, the small ones are the seeds; the line along the
    large ones is the Pareto front.
    """
    figure, axes = _panels(len(panels), 2, PANEL_INCHES)
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel)
    for axis, panel in zip(axes, panels, strict=True):  # when the layout of all is settled
        place_labels(axis, [(c.point[0], 100 * c.point[1], c.label) for c in panel.configurations])
    return figure


def _draw_panel(axis: Axes, panel: Panel) -> None:
    _set_axes(axis, panel)
    if panel.baseline:
        _draw_baseline(axis, [100 * iou for iou in panel.baseline])
    if len(panel.front) > 1:
        bits, ious = zip(*(configuration.point for configuration in panel.front), strict=True)
        axis.plot(bits, [100 * iou for iou in ious], color=GREY, linestyle=":", zorder=1,
                  label="Pareto front")  # fmt: skip
    for configuration in panel.configurations:
        colour, marker = STYLES.get(configuration.records[0].quantizer.type, (GREY, "X"))
        if len(configuration.ious) > 1:
            percents = [100 * iou for iou in configuration.ious]
            axis.plot(configuration.bits, percents, marker, color=colour, alpha=SEED_ALPHA,
                      markersize=SEED_SIZE, markeredgewidth=0, zorder=2)  # fmt: skip
        rate, iou = configuration.point
        axis.plot([rate], [100 * iou], marker, color=colour, markersize=8, zorder=3,
                  markeredgecolor="white")  # fmt: skip
    if any(len(configuration.ious) > 1 for configuration in panel.configurations):
        axis.plot([], [], "o", color=GREY, alpha=SEED_ALPHA, markersize=SEED_SIZE,
                  markeredgewidth=0, label="one seed each; large: their mean")  # fmt: skip
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="best", frameon=False, fontsize="small")


def _set_axes(axis: Axes, panel: Panel) -> None:
    bits = [value for configuration in panel.configurations for value in configuration.bits]
    axis.set_title(panel.title, fontsize="medium")
    axis.set_xscale("log", base=2, subs=[])
    axis.set_xlim(min(bits) / 2, max(bits) * 2)  # room for labels, and at least two ticks
    axis.xaxis.set_major_formatter("{x:g}")
    axis.margins(y=0.12)
    axis.set_xlabel("measured bits per vector (whole file of codes)")
    axis.set_ylabel("test mean IoU in %")
    _plain(axis)


def _draw_baseline(axis: Axes, percents: Sequence[float]) -> None:
    level, label = mean(percents), "unquantized baseline"
    if len(percents) > 1:
        deviation = stdev(percents)
        label += f" ± deviation of {len(percents)} runs"
        axis.axhspan(level - deviation, level + deviation, color="black", alpha=0.12, linewidth=0)
    axis.axhline(level, color="black", linewidth=1.2, label=label)


def place_labels(axis: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each point's text beside it: (x, y, text) in data coordinates.

    A label takes the place where it covers the fewest markers and earlier labels, and not the
    legend, inside the axes; its white outline keeps it readable on a line.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # pixels depend on the layout
    frame = axis.get_window_extent()
    taken = [
        Bbox([pixel - MARKER_RADIUS_PX, pixel + MARKER_RADIUS_PX])
        for line in axis.lines
        for pixel in line.get_transform().transform(line.get_xydata())
    ]
    if legend := axis.get_legend():
        taken.append(legend.get_window_extent())

    def covered(label: Annotation, place: tuple[int, int]) -> int:
        label.xyann = place
        label.set(ha=HORIZONTAL[np.sign(place[0])], va=VERTICAL[np.sign(place[1])])
        box = label.get_window_extent()
        return box.count_overlaps(taken) + 10 * (4 - frame.count_contains(box.corners()))

    for x, y, text in points:
        label = axis.annotate(text, (x, y), (0, 0), textcoords="offset points", fontsize="small",
                              path_effects=[withStroke(linewidth=3, foreground="white")])  # fmt: skip
        label.set_in_layout(False)  # the layout is settled already
        covered(label, min(LABEL_PLACES, key=lambda place: covered(label, place)))
        taken.append(label.get_window_extent())


def _panels(
    count: int, most_columns: int, inches: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its `count` axes, in rows of up to `most_columns`."""
    from matplotlib.figure import Figure

    columns = min(most_columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(inches[0] * columns, inches[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def _plain(axis: Axes) -> None:
    axis.grid(color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
