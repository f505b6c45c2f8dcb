"""Figures of matplotlib, drawn without a display and without pyplot's global state.

Colours are those of Okabe and Ito (2008, https://jfly.uni-koeln.de/color/), which stay apart for
the colour-blind; markers differ too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter

from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.errors import SqueezeError
from squeeze_cli.files import replacing
from squeeze_cli.reports.labels import place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from squeeze_cli.reports.rate_distortion import Configuration, Panel

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#666666"
SEED_ALPHA, SEED_SIZE = 0.45, 3.5
PANEL_INCHES = (6.4, 4.2)
DPI = 150


def save_figure(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Write the figure as what the path's ending says (png or svg), whole or not at all.

    The same figure gives the same bytes: no date, no random ids. Raises SqueezeError where the file
    cannot be written.
    """
    suffix = path.suffix.lower().removeprefix(".")
    metadata = {"Date": None} if suffix == "svg" else None
    try:
        with replacing(path) as temporary, rc_context({"svg.hashsalt": "squeeze"}):
            figure.savefig(temporary, format=suffix, dpi=dpi, metadata=metadata)
    except OSError as error:
        raise SqueezeError(f"Cannot write {path}: {error.strerror}; name another file.") from None


def rate_distortion_figure(panels: Sequence[Panel]) -> Figure:
    """Measured bits a vector (log axis) against test mIoU, a panel for each setting.

    A large marker is the mean over the seeds, the small ones are the seeds; the line along the
    large ones is the Pareto front.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.remove()
    drawn = list(zip(axes, panels, strict=False))
    for axis, panel in drawn:
        _draw_panel(axis, panel)
    for axis, panel in drawn:  # when all is drawn, for the layout of one moves the others
        place_labels(axis, [(c.point[0], 100 * c.point[1], c.label) for c in panel.configurations])
    return figure


def _draw_panel(axis: Axes, panel: Panel) -> None:
    _set_axes(axis, panel)
    _draw_baseline(axis, panel)
    if len(panel.front) > 1:
        bits, ious = zip(*(configuration.point for configuration in panel.front), strict=True)
        axis.plot(bits, [100 * iou for iou in ious], color=GREY, linestyle=":", zorder=1,
                  label="Pareto front")  # fmt: skip
    for configuration in panel.configurations:
        _draw_configuration(axis, configuration)
    if any(len(configuration.ious) > 1 for configuration in panel.configurations):
        axis.plot([], [], "o", color=GREY, alpha=SEED_ALPHA, markersize=SEED_SIZE,
                  markeredgewidth=0, label="one seed each; large: their mean")  # fmt: skip
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="best", frameon=False, fontsize="small")


def _set_axes(axis: Axes, panel: Panel) -> None:
    axis.set_title(panel.title, fontsize="medium")
    axis.set_xscale("log", base=2)
    bits = [value for configuration in panel.configurations for value in configuration.bits]
    # Room for labels, and at least two powers of two, so that the axis shows its scale.
    low, high = min(bits) / 1.5, max(bits) * 1.5
    if high / low < 4:
        middle = (low * high) ** 0.5
        low, high = middle / 2.2, middle * 2.2
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(LogLocator(base=2))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.margins(y=0.12)
    axis.set_xlabel("measured bits a vector (whole file of codes)")
    axis.set_ylabel("test mean IoU in %")
    axis.grid(color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_baseline(axis: Axes, panel: Panel) -> None:
    if not panel.baseline:
        return
    scores = [100 * iou for iou in panel.baseline]
    level = mean(scores)
    label = "unquantized baseline"
    if len(scores) > 1:
        deviation = stdev(scores)
        label += f" ± deviation of {len(scores)} runs"
        axis.axhspan(level - deviation, level + deviation, color="black", alpha=0.12, linewidth=0)
    axis.axhline(level, color="black", linewidth=1.2, label=label)


def _draw_configuration(axis: Axes, configuration: Configuration) -> None:
    colour, marker = _style(configuration)
    bits, iou = configuration.point
    if len(configuration.ious) > 1:
        percents = [100 * value for value in configuration.ious]
        axis.plot(configuration.bits, percents, marker, color=colour, alpha=SEED_ALPHA,
                  markersize=SEED_SIZE, markeredgewidth=0, zorder=2)  # fmt: skip
    axis.plot([bits], [100 * iou], marker, color=colour, markersize=8, markeredgecolor="white",
              zorder=3)  # fmt: skip


def _style(configuration: Configuration) -> tuple[str, str]:
    """Colour and marker of a quantizer: the same in every figure."""
    names = list(QUANTIZERS)
    index = names.index(configuration.quantizer) if configuration.quantizer in names else len(names)
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
