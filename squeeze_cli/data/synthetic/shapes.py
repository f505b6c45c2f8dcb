"""Rounded cones as distances and heights: what animals and clutter are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, hypot, sin

import numpy as np

from squeeze_cli.data.synthetic.dice import Field

_FAR = 1e3


@dataclass(frozen=True)
class Cone:
    """A rounded cone from (ax, ay) to (bx, by); lengths in units of the image's side, y downwards.

    Attributes:
        ra: radius at the first end.
        rb: radius at the second end.
        z: how far it stands out towards the viewer.
    """

    ax: float
    ay: float
    bx: float
    by: float
    ra: float
    rb: float
    z: float = 0.0


@dataclass(frozen=True)
class Relief:
    """A union of cones: two fields [S, S] float32, in units of the image's side.

    Attributes:
        distance: to the outline, negative inside; exact near the shape, large far from it.
        height: of the rounded surface towards the viewer; 0 outside.
    """

    distance: Field
    height: Field


def placed(cone: Cone, x: float, y: float, scale: float, angle: float, mirrored: bool) -> Cone:
    """Scale, mirror, turn (radians) and move a cone."""
    # Sines may differ in the last bit between machines: rounding removes it.
    cosine, sine = round(cos(angle), 6), round(sin(angle), 6)
    flip = -1.0 if mirrored else 1.0

    def moved(px: float, py: float) -> tuple[float, float]:
        px, py = px * flip * scale, py * scale
        return x + px * cosine - py * sine, y + px * sine + py * cosine

    ax, ay = moved(cone.ax, cone.ay)
    bx, by = moved(cone.bx, cone.by)
    ra, rb, z = cone.ra * scale, cone.rb * scale, cone.z * scale
    return replace(cone, ax=ax, ay=ay, bx=bx, by=by, ra=ra, rb=rb, z=z)


def draw_relief(cones: Sequence[Cone], side_px: int, margin: float) -> Relief:
    """Unite cones on S x S pixels; distances are right up to `margin` outside the outline."""
    distance = np.full((side_px, side_px), _FAR, dtype=np.float32)
    height = np.zeros((side_px, side_px), dtype=np.float32)
    for cone in cones:
        rows, columns, to_axis, radius = _cone_fields(cone, side_px, margin)
        near = distance[rows, columns]
        np.minimum(near, to_axis - radius, out=near)
        dome = np.sqrt(np.maximum(radius * radius - to_axis * to_axis, np.float32(0)))
        dome += np.float32(cone.z) * (dome > 0)
        high = height[rows, columns]
        np.maximum(high, dome, out=high)
    return Relief(distance, height)


def outline_distance(cone: Cone, side_px: int, margin: float) -> tuple[slice, slice, Field]:
    """Rows and columns around a cone that are in the image, and the distance to its outline there.

    The field [rows, columns] is negative inside; it is empty when the cone is outside the image.
    """
    rows, columns, to_axis, radius = _cone_fields(cone, side_px, margin)
    return rows, columns, to_axis - radius


def light_relief(relief: Relief, light_x: float, light_y: float) -> Field:
    """Brightness [S, S], about 0.4..1.2, of a relief lit from (light_x, light_y, 1)."""
    side_px = relief.height.shape[0]
    slope_y, slope_x = np.zeros_like(relief.height), np.zeros_like(relief.height)
    half_side = np.float32(side_px / 2)
    slope_x[:, 1:-1] = (relief.height[:, 2:] - relief.height[:, :-2]) * half_side
    slope_y[1:-1] = (relief.height[2:] - relief.height[:-2]) * half_side
    np.clip(slope_x, -2, 2, out=slope_x)
    np.clip(slope_y, -2, 2, out=slope_y)
    facing = np.float32(1) - slope_x * np.float32(light_x) - slope_y * np.float32(light_y)
    length = np.sqrt(slope_x * slope_x + slope_y * slope_y + np.float32(1))
    facing /= length * np.float32(max(hypot(light_x, light_y, 1.0), 1.0))
    lit: Field = np.maximum(facing, np.float32(0)) * np.float32(0.75) + np.float32(0.42)
    return lit


def _span(a: float, b: float, reach: float, side_px: int) -> slice:
    first, last = int((min(a, b) - reach) * side_px), int((max(a, b) + reach) * side_px) + 2
    first, last = max(first, 0), min(max(last, 0), side_px)
    return slice(min(first, last), last)


def _cone_fields(cone: Cone, side_px: int, margin: float) -> tuple[slice, slice, Field, Field]:
    """Rows, columns, and there the distance to the axis and the radius, both [rows, columns]."""
    reach = max(cone.ra, cone.rb) + margin
    rows = _span(cone.ay, cone.by, reach, side_px)
    columns = _span(cone.ax, cone.bx, reach, side_px)
    along_x, along_y = cone.bx - cone.ax, cone.by - cone.ay
    squared = max(along_x * along_x + along_y * along_y, 1e-9)
    dx = _centres(columns, side_px)[None, :] - np.float32(cone.ax)
    dy = _centres(rows, side_px)[:, None] - np.float32(cone.ay)
    share = dx * np.float32(along_x / squared) + dy * np.float32(along_y / squared)
    np.clip(share, 0, 1, out=share)
    off_x = dx - share * np.float32(along_x)
    off_y = dy - share * np.float32(along_y)
    to_axis = np.sqrt(off_x * off_x + off_y * off_y)
    return rows, columns, to_axis, share * np.float32(cone.rb - cone.ra) + np.float32(cone.ra)


def _centres(span: slice, side_px: int) -> Field:
    return (np.arange(span.start, span.stop, dtype=np.float32) + np.float32(0.5)) / np.float32(
        side_px
    )
