"""Pictures of predictions: a grid with one column per image and one row per mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.reports.figures import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue and orange stay apart for the colour-blind; background is left as it is.
COLOURED_CLASSES = ((0, "pet", COLOURS[0]), (2, "border", COLOURS[4]))
OPACITY = 0.6
CELL_INCHES = 1.5
NAME_CHARACTERS = 20


@dataclass(frozen=True)
class PictureColumn:
    """One image and its masks.

    Attributes:
        name: the image's name.
        pixels: `[H, W, 3]` uint8.
        masks: class indices `[H, W]`, one mask per further row.
        notes: the text below each mask, such as its IoU; may be empty.
    """

    name: str
    pixels: NDArray[np.uint8]
    masks: Sequence[NDArray[np.uint8]]
    notes: Sequence[str]


def picture_grid(titles: Sequence[str], columns: Sequence[PictureColumn]) -> Figure:
    """Draw one column per image: its pixels first, then a row for each mask; `titles` are of rows."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = len(titles)
    size = (CELL_INCHES * len(columns) + 0.3, (CELL_INCHES + 0.15) * rows + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for number, column in enumerate(columns):
        shown = [column.pixels, *(overlay(column.pixels, mask) for mask in column.masks)]
        for axis, picture, note in zip(axes[:, number], shown, ["", *column.notes], strict=True):
            axis.imshow(picture)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(note, fontsize=7, labelpad=2)
        end = column.name[1 - NAME_CHARACTERS :]
        name = column.name if len(column.name) <= NAME_CHARACTERS else f"…{end}"
        axes[0, number].set_title(name, fontsize=7, pad=3)
    for axis, title in zip(axes[:, 0], titles, strict=True):
        axis.set_ylabel(title, fontsize=8)
    patches = [Patch(color=colour, label=name) for _, name, colour in COLOURED_CLASSES]
    figure.legend(handles=patches, loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return figure


def overlay(pixels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image `[H, W, 3]` with the mask's classes laid over it."""
    shown = pixels.astype(np.float32)
    for value, _, colour in COLOURED_CLASSES:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float32)
        where = mask == value
        shown[where] = (1 - OPACITY) * shown[where] + OPACITY * rgb
    return shown.round().astype(np.uint8)
