"""Rounded cones, of which drawn animals are made; lengths are shares of the image's side."""

from __future__ import annotations

from math import sqrt
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


class Cone(NamedTuple):
    """A rounded cone from (ax, ay) with radius ra to (bx, by) with radius rb, raised by z."""

    ax: float
    ay: float
    bx: float
    by: float
    ra: float
    rb: float
    z: float = 0.0
    part: str = "fur"  # or "eye" or "nose"


def draw_animal(rng: Random) -> list[Cone]:
    """Draw a pose, its proportions and its place in the image."""
    cones = rng.choice((_stand, _sit, _look))(rng)
    size, tilt, flip = rng.uniform(0.4, 0.65), rng.uniform(-0.2, 0.2), rng.choice((-1, 1))
    x, y = rng.uniform(0.38, 0.62), rng.uniform(0.46, 0.6)

    def placed(px: float, py: float) -> tuple[float, float]:
        return x + size * (flip * px - tilt * py), y + size * (py + tilt * flip * px)

    return [
        Cone(*placed(c.ax, c.ay), *placed(c.bx, c.by), size * c.ra, size * c.rb, size * c.z, c.part)
        for c in cones
    ]


def relief_of(cones: list[Cone], side_px: int) -> tuple[Field, Field]:
    """Distance to the outline (negative inside) and height of a union of cones, both [S, S]."""
    # IEEE 754 rounds + - * / sqrt exactly: all machines draw the same pixels.
    centres = (np.arange(side_px, dtype=np.float32) + 0.5) / side_px
    distance, height = (np.full((side_px, side_px), start, np.float32) for start in (10, 0))
    for cone in cones:
        along_x, along_y = cone.bx - cone.ax, cone.by - cone.ay
        squared = max(along_x * along_x + along_y * along_y, 1e-9)
        dx, dy = centres[None, :] - cone.ax, centres[:, None] - cone.ay
        share = np.clip(dx * (along_x / squared) + dy * (along_y / squared), 0, 1)
        off_x, off_y = dx - share * along_x, dy - share * along_y
        to_axis = np.sqrt(off_x * off_x + off_y * off_y)
        radius = cone.ra + share * (cone.rb - cone.ra)
        np.minimum(distance, to_axis - radius, out=distance)
        dome = np.sqrt(np.maximum(radius * radius - to_axis * to_axis, 0))
        np.maximum(height, dome + cone.z * (dome > 0), out=height)
    return distance, height


def light(height: Field, light_x: float, light_y: float) -> Field:
    """Brightness [S, S], 0.4 to 1.2, of a surface that is lit from (light_x, light_y, 1)."""
    slope_y, slope_x = (np.clip(slope * len(height), -2, 2) for slope in np.gradient(height))
    length = np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    length *= sqrt(light_x * light_x + light_y * light_y + 1)
    lit: Field = np.maximum((1 - slope_x * light_x - slope_y * light_y) / length, 0) * 0.75 + 0.42
    return lit


def _head(rng: Random, x: float, y: float, r: float, turn: int) -> list[Cone]:
    """Draw a head of radius r; `turn` is 0 for one that faces the viewer, 1 for a profile."""
    cones = [Cone(x, y - 0.1 * r, x, y + rng.uniform(0, 0.25) * r, r, 0.9 * r, 0.15)]
    floppy, ear = rng.random() < 0.4, r * rng.uniform(0.75, 1.1)
    lean, drop, root, tip = (0.7, 1.2, 0.34, 0.42) if floppy else (0.3, -0.95, 0.48, 0.07)
    for side in (-1, 1):
        ax, ay = x + r * (side * (0.62 - 0.3 * turn) - 0.25 * turn), y - 0.62 * r
        bx = ax + side * ear * lean
        cones.append(Cone(ax, ay, bx, ay + ear * drop, ear * root, ear * tip, 0.1))
        if side > 0 or not turn:  # a profile shows one eye
            at = (x + 0.4 * side * r, y - 0.15 * r)
            cones.append(Cone(*at, *at, 0.16 * r, 0.16 * r, part="eye"))
    muzzle, tip_y = r * rng.uniform(0.32, 0.45), y + r * rng.uniform(0.3, 0.5)
    tip_x = x + turn * r * rng.uniform(0.9, 1.5)
    cones.append(Cone(x + 0.3 * turn * r, tip_y, tip_x, tip_y, muzzle * 1.1, muzzle, 0.3))
    nose = (tip_x + turn * muzzle * 0.7, tip_y - 0.35 * muzzle)
    return [*cones, Cone(*nose, *nose, muzzle / 3, muzzle / 3, part="nose")]


def _stand(rng: Random) -> list[Cone]:
    girth, leg, foot = rng.uniform(0.2, 0.3), rng.uniform(0.06, 0.09), rng.uniform(0.35, 0.68)
    x, y = rng.uniform(0.58, 0.72), rng.uniform(-0.5, -0.2)
    legs = ((-0.3, -0.1), (0.24, -0.1), (-0.46, 0.1), (0.38, 0.1))
    return [
        Cone(-0.58, -0.1, rng.uniform(-1, -0.7), rng.uniform(-0.6, 0.2), 0.07, 0.04),  # tail
        *(Cone(at, 0.1, at + rng.uniform(-0.1, 0.1), foot, leg * 1.4, leg, z) for at, z in legs),
        Cone(-0.42, 0, 0.36, -0.02, girth, girth * rng.uniform(0.85, 1.1)),
        Cone(0.36, -0.08, x, y, 0.2, 0.14, 0.04),
        *_head(rng, x, y, rng.uniform(0.18, 0.24), rng.choice((0, 1))),
    ]


def _sit(rng: Random) -> list[Cone]:
    return [
        Cone(-0.3, 0.56, rng.uniform(-0.8, -0.5), rng.uniform(0, 0.6), 0.07, 0.04),  # tail
        Cone(0, -0.12, 0, 0.34, rng.uniform(0.19, 0.25), rng.uniform(0.28, 0.36)),
        *(Cone(0.14 * side, 0.15, 0.25 * side, 0.62, 0.14, 0.09, 0.14) for side in (-1, 1)),
        *_head(rng, rng.uniform(-0.08, 0.08), rng.uniform(-0.5, -0.38), rng.uniform(0.22, 0.29), 0),
    ]


def _look(rng: Random) -> list[Cone]:
    body = Cone(0, 0.5, rng.uniform(-0.25, 0.25), 1.6, rng.uniform(0.35, 0.5), 0.75)
    return [body, *_head(rng, 0, rng.uniform(-0.15, 0.05), rng.uniform(0.45, 0.6), 0)]
