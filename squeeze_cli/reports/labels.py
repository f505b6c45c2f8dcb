"""Labels beside points, where they cover neither each other nor what is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import ceil, hypot
from typing import TYPE_CHECKING, Any, cast

from matplotlib.transforms import Bbox

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Where a label may stand, the best first: offset in points, alignments.
PLACES: tuple[tuple[tuple[float, float], str, str], ...] = (
    ((8, 0), "left", "center"),
    ((0, 8), "center", "bottom"),
    ((0, -8), "center", "top"),
    ((-8, 0), "right", "center"),
    ((7, 7), "left", "bottom"),
    ((7, -7), "left", "top"),
    ((-7, 7), "right", "bottom"),
    ((-7, -7), "right", "top"),
)
# Half a side of the square that a marker, or a stretch of a line, is taken to fill.
REACH_PX = 4.0
# A label over a label, or cut off, is worse than one over this many points.
UNREADABLE = 100


def place_labels(axis: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each point's text beside it: (x, y, text) in data coordinates.

    A label takes the first place where it covers no line, marker, legend or earlier label of the
    axes and stays inside them; where there is none, the one that covers least.
    """
    cast("Figure", axis.figure).draw_without_rendering()  # settles the layout: pixels depend on it
    drawn = list(_drawn(axis))
    written: list[Bbox] = []
    frame = axis.get_window_extent()
    for x, y, text in points:
        labels = [_annotate(axis, (x, y), text, place) for place in PLACES]
        boxes = [label.get_window_extent() for label in labels]
        costs = [
            sum(box.overlaps(other) for other in drawn)
            + UNREADABLE * sum(box.overlaps(other) for other in written)
            + UNREADABLE * (not _inside(box, frame))
            for box in boxes
        ]
        chosen = costs.index(min(costs))
        written.append(boxes[chosen])
        for number, label in enumerate(labels):
            if number != chosen:
                label.remove()


def _drawn(axis: Axes) -> Iterator[Bbox]:
    """Boxes, in pixels, of the legend and along all lines and markers."""
    legend = axis.get_legend()
    if legend is not None:
        yield legend.get_window_extent()
    for line in axis.lines:
        pixels = [
            (float(x), float(y)) for x, y in line.get_transform().transform(line.get_xydata())
        ]
        for x, y in pixels:
            yield _square(x, y)
        if line.get_linestyle() == "None":
            continue
        for (x0, y0), (x1, y1) in pairwise(pixels):
            steps = max(1, ceil(hypot(x1 - x0, y1 - y0) / (2 * REACH_PX)))
            for step in range(1, steps):
                share = step / steps
                yield _square(x0 + share * (x1 - x0), y0 + share * (y1 - y0))


def _square(x: float, y: float) -> Bbox:
    return Bbox([[x - REACH_PX, y - REACH_PX], [x + REACH_PX, y + REACH_PX]])


def _annotate(axis: Axes, at: tuple[float, float], text: str, place: Any) -> Any:
    offset, horizontal, vertical = place
    label = axis.annotate(
        text, at, offset, textcoords="offset points", ha=horizontal, va=vertical, fontsize="small"
    )
    label.set_in_layout(False)  # the layout is settled already
    return label


def _inside(box: Bbox, frame: Bbox) -> bool:
    return bool(
        frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    )
