"""Figure of rate and distortion by run records, for `squeeze compare --plot`.

The rate is measured: bits per vector of the whole file of the test split's codes. Runs of one
configuration that differ in their seeds are one point, their mean. A panel contains runs on the same
features and images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, stdev
from typing import TYPE_CHECKING, Literal

from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.config.record import FinishedRecord, RunRecord
from squeeze_cli.config.schema import FIELDS
from squeeze_cli.errors import SqueezeError
from squeeze_cli.reports.comparison import (
    Point,
    baseline_ious,
    by_setting,
    on_front,
    rate_and_quality,
)
from squeeze_cli.reports.figures import COLOURS, GREY, grid_of_axes, style_axes
from squeeze_cli.runs import FoundRun, with_levels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

# Colour and marker of each quantizer, the same in every figure.
STYLES = dict(zip(QUANTIZERS, zip(COLOURS, "os^DvP*", strict=True), strict=False))
PANEL_INCHES = (6.4, 4.2)
MARKER_RADIUS_PX = 6
# Positions of a label relative to its point (steps to the right and up), the best first.
LABEL_PLACES = ((1, -1), (1, 0), (0, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (-1, -1))
LABEL_OFFSET_POINTS = 8
# Settings that do not define a configuration, or that `_traits` takes from other fields of a record.
_OTHER_SETTINGS = (
    "training.seed", "training.epochs", "quantizer.type", "quantizer.codebook_size",
    "quantizer.levels", "quantizer.num_quantizers", "quantizer.num_groups",
    "quantizer.bottleneck_dim", "model.loss_type",
    "model.add_adapter", "model.unfreeze_last_layer", "model.feature_dim",
)  # fmt: skip


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in their seeds only, with measured bits per vector and test quality of each.

    The label names the differences to other configurations in the panel.
    """

    label: str
    records: tuple[FinishedRecord, ...]
    bits: tuple[float, ...]
    qualities: tuple[float, ...]

    @property
    def point(self) -> Point:
        """Mean bits and mean quality over the seeds."""
        return mean(self.bits), mean(self.qualities)


@dataclass(frozen=True)
class Panel:
    """Configurations on the same features and images, in order of their rates.

    `quality` is mean IoU (0 to 1, drawn in %), or SQNR (in dB) for runs without a segmentation head.
    `front` has the configurations on the Pareto front of the means, `baseline` the test mIoU of each
    run on unquantized features.
    """

    title: str
    quality: Literal["mean IoU", "SQNR"]
    configurations: tuple[Configuration, ...]
    front: tuple[Configuration, ...]
    baseline: tuple[float, ...]


def rate_distortion(runs: Sequence[FoundRun]) -> list[Panel]:
    """Return a panel for each setting with a finished run that has measured bits and was tested.

    Raises SqueezeError if there is none.
    """
    every = with_levels(runs)
    groups = [group for group in by_setting(every).values() if any(map(rate_and_quality, group))]
    if not groups:
        raise SqueezeError(
            "Nothing to plot: none of these runs is finished and has measured bits; train one with "
            "`squeeze train`."
        )
    return [_panel(group) for group in groups]


def _panel(group: Sequence[RunRecord]) -> Panel:
    plotted = filter(rate_and_quality, group)
    records = [FinishedRecord.model_validate(r.model_dump(exclude_unset=True)) for r in plotted]
    configurations = sorted(_configurations(records), key=lambda each: each.point)
    points = [configuration.point for configuration in configurations]
    front = tuple(each for each in configurations if on_front(each.point, points))
    model, data = records[0].model, records[0].data
    weights = " (random features)" if model.random_features else ""
    title = f"{model.backbone}{weights}, {data.test_images} test images of {data.dataset}" + (
        f", {data.size_text} px" if data.size_text else ""
    )
    quality: Literal["mean IoU", "SQNR"] = "SQNR" if model.loss == "reconstruction" else "mean IoU"
    return Panel(title, quality, tuple(configurations), front, tuple(baseline_ious(group)))


def _configurations(records: Sequence[FinishedRecord]) -> list[Configuration]:
    """Group the seeds of one configuration, and label the groups.

    A label has the quantizer, the code sizes, and the traits in which configurations of that name
    differ. The record of an older version lacks some hyperparameters. Therefore, if a seed occurs twice,
    the runs may differ otherwise: each is a point of its own with the run's name.
    """
    alike: dict[str, list[FinishedRecord]] = defaultdict(list)
    for record in records:
        alike[repr(_traits(record))].append(record)
    configurations = []
    for group in alike.values():
        own = _traits(group[0])
        same = [t for t in map(_traits, records) if t["name"] == own["name"]]
        differing = [
            f"{key} {value}"
            for key, value in own.items()
            if any(t.get(key, value) != value for t in same)
        ]
        averaged = len({record.seed for record in group}) == len(group)
        for seeds in [group] if averaged else [[record] for record in group]:
            name = own["name"] if averaged else seeds[0].name
            label = ", ".join([str(name), *differing])
            bits, qualities = zip(*filter(None, map(rate_and_quality, seeds)), strict=True)
            configurations.append(Configuration(label, tuple(seeds), bits, qualities))
    return configurations


def _traits(record: FinishedRecord) -> dict[str, object]:
    """Return the properties that define a configuration, by their names in labels.

    They are all recorded settings of the quantizer, the model and the training but for the seed.
    """
    quantizer, model, sizes = record.quantizer, record.model, record.quantizer.code_sizes
    alike = len(sizes) > 1 and len(set(sizes)) == 1
    shown = f"{len(sizes)} × {sizes[0]}" if alike else " × ".join(map(str, sizes))
    traits: dict[str, object] = {
        "name": f"{quantizer.type} {shown}",
        "codes": tuple(sizes),
        "bottleneck": quantizer.bottleneck_dim,
        "loss": model.loss,
        "adapter": model.add_adapter,
        "unfrozen": model.unfreeze_last_layer,
        "channels": model.quantized_dim,
        "epochs": record.epochs.planned,
        "coding": record.measured.test.coding if record.measured else None,
        "train images": record.data.train_images,
        "teacher": model.teacher_digest and model.teacher_digest[:8],
    }
    if not record.settings:  # of an older version
        return traits
    defaults = {key: field.default for key, field in FIELDS.items()}  # of settings that came later
    others = {
        key.partition(".")[2].replace("_", " "): value
        for key, value in (defaults | record.settings).items()
        if key.startswith(("quantizer.", "model.", "training.")) and key not in _OTHER_SETTINGS
    }
    return traits | others


def rate_distortion_figure(panels: Sequence[Panel]) -> Figure:
    """Draw measured bits per vector (log axis) against test quality, one panel for each setting.

    A large marker is the mean over the seeds, small markers are single seeds, and the line connects
    the means on the Pareto front.
    """
    figure, axes = grid_of_axes(len(panels), 2, PANEL_INCHES)
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel)
    figure.draw_without_rendering()  # labels need the final layout of all panels
    for axis, panel in zip(axes, panels, strict=True):
        place_labels(axis, [(*each.point, each.label) for each in panel.configurations])
    return figure


def _draw_panel(axis: Axes, panel: Panel) -> None:
    axis.set_title(panel.title, fontsize="medium")
    bits = [value for configuration in panel.configurations for value in configuration.bits]
    axis.set_xscale("log", base=2, subs=[])
    axis.set_xlim(min(bits) / 2, max(bits) * 2)  # room for labels, and at least two ticks
    axis.xaxis.set_major_formatter("{x:g}")
    axis.margins(y=0.12)
    axis.set_xlabel("measured bits per vector (whole file of codes)")
    axis.set_ylabel(f"test {panel.quality} in {'%' if panel.quality == 'mean IoU' else 'dB'}")
    if panel.quality == "mean IoU":
        axis.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    style_axes(axis)
    if panel.baseline:
        level, label = mean(panel.baseline), "unquantized baseline"
        if len(panel.baseline) > 1:
            label += f" ± deviation of {len(panel.baseline)} runs"
            deviation = stdev(panel.baseline)
            axis.axhspan(level - deviation, level + deviation, color="black", alpha=0.12, lw=0)
        axis.axhline(level, color="black", linewidth=1.2, label=label)
    if len(panel.front) > 1:
        front = zip(*(configuration.point for configuration in panel.front), strict=True)
        axis.plot(*front, ":", color=GREY, zorder=1, label="Pareto front")
    draw_seeds = partial(axis.plot, alpha=0.45, markersize=3.5, markeredgewidth=0)
    for configuration in panel.configurations:
        colour, marker = STYLES.get(configuration.records[0].quantizer.type, (GREY, "X"))
        if len(configuration.bits) > 1:
            seeds = (configuration.bits, configuration.qualities)
            draw_seeds(*seeds, marker, color=colour, zorder=2)
        axis.plot(*configuration.point, marker, color=colour, markersize=8, zorder=3,
                  markeredgecolor="white")  # fmt: skip
    if any(len(configuration.bits) > 1 for configuration in panel.configurations):
        draw_seeds([], [], "o", color=GREY, label="one seed each; large: their mean")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="best", frameon=False, fontsize="small")


def place_labels(axis: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write the text of each point (x, y, text), in data coordinates, beside it.

    The figure must have its final layout. A label is placed inside the axes where it overlaps the
    fewest points, earlier labels and the legend; its white outline keeps it readable on a line.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    frame, legend = axis.get_window_extent(), axis.get_legend()
    pixels = axis.transData.transform([(x, y) for x, y, _ in points])
    taken = [Bbox([pixel - MARKER_RADIUS_PX, pixel + MARKER_RADIUS_PX]) for pixel in pixels]
    if legend:
        taken.append(legend.get_window_extent())

    def covered(label: Annotation, place: tuple[int, int]) -> int:
        right, up = place
        label.xyann = (LABEL_OFFSET_POINTS * right, LABEL_OFFSET_POINTS * up)
        label.set(ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up])
        box = label.get_window_extent()
        return box.count_overlaps(taken) + 10 * (4 - frame.count_contains(box.corners()))

    for x, y, text in points:
        label = axis.annotate(text, (x, y), (0, 0), textcoords="offset points", fontsize="small",
                              path_effects=[withStroke(linewidth=3, foreground="white")])  # fmt: skip
        label.set_in_layout(False)  # the layout is final
        covered(label, min(LABEL_PLACES, key=lambda place: covered(label, place)))
        taken.append(label.get_window_extent())
