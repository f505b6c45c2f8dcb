"""Backgrounds: lawns, rooms and blankets, with clutter in the colours of coats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.data.synthetic.dice import Dice, Field
from squeeze_cli.data.synthetic.shapes import Cone, draw_relief, light_relief

Planes = NDArray[np.float32]
Colour = tuple[float, float, float]

# RGB colours of fur, 0..1; clutter and rooms use them too, so colour alone gives nothing away.
COAT_COLOURS: tuple[Colour, ...] = (
    (0.12, 0.11, 0.11),
    (0.3, 0.29, 0.29),
    (0.52, 0.51, 0.5),
    (0.36, 0.24, 0.15),
    (0.55, 0.38, 0.22),
    (0.76, 0.5, 0.26),
    (0.8, 0.68, 0.5),
    (0.9, 0.87, 0.82),
)
_FABRIC_COLOURS: tuple[Colour, ...] = (
    *COAT_COLOURS[1:],
    (0.3, 0.36, 0.5),
    (0.55, 0.25, 0.25),
    (0.42, 0.5, 0.4),
    (0.66, 0.62, 0.56),
)
_LAWN_COLOURS: tuple[Colour, ...] = (
    (0.3, 0.42, 0.16),
    (0.42, 0.5, 0.22),
    (0.55, 0.53, 0.3),
    (0.36, 0.33, 0.2),
)


def plane(colour: Colour) -> Planes:
    """Give a colour the shape [3, 1, 1]."""
    return np.asarray(colour, dtype=np.float32).reshape(3, 1, 1)


def jittered(dice: Dice, colour: Colour, amount: float) -> Colour:
    """Move a colour by up to `amount` in brightness and half of it in each channel."""
    shift = dice.uniform(-amount, amount)
    red, green, blue = (c + shift + dice.uniform(-amount, amount) / 2 for c in colour)
    return red, green, blue


def blend(low: Planes, high: Planes, share: Field) -> Planes:
    """Give low where share [S, S] is 0, high where it is 1."""
    return low + (high - low) * share


def ramp(field: Field, low: float, high: float) -> Field:
    """Map low..high to 0..1 and clip."""
    scaled: Field = (field - np.float32(low)) * np.float32(1 / (high - low))
    return np.clip(scaled, 0, 1, out=scaled)


def waves(phase: Field) -> Field:
    """Triangle waves of period 1 in 0..1 (exactly rounded, unlike a sine)."""
    saw: Field = phase - np.floor(phase)
    triangle: Field = np.abs(saw * np.float32(2) - np.float32(1))
    return triangle


def draw_backdrop(dice: Dice) -> Planes:
    """Draw a background [3, S, S] float32, about 0..1."""
    ground = dice.pick((_draw_lawn, _draw_fabric, _draw_boards))(dice)
    if dice.chance(0.6):
        wall = dice.pick((_draw_wall, _draw_fabric, _draw_lawn))(dice)
        y = np.linspace(0, 1, dice.side_px, dtype=np.float32)[:, None]
        edge = dice.noise(4, 2) * np.float32(dice.uniform(0, 0.1))
        horizon = dice.uniform(0.25, 0.75)
        ground = blend(wall, ground, ramp(y + edge, horizon, horizon + 0.02))
    return _add_clutter(dice, ground)


def _draw_lawn(dice: Dice) -> Planes:
    side_px = dice.side_px
    blades = dice.noise(side_px // 2, side_px // dice.pick((4, 6, 9)))
    patches = dice.noise(5, 4)
    low, high = (jittered(dice, dice.pick(_LAWN_COLOURS), 0.1) for _ in range(2))
    ground = blend(plane(low), plane(high), patches)
    return ground * (blades * np.float32(dice.uniform(0.5, 0.9)) + np.float32(0.6))


def _draw_fabric(dice: Dice) -> Planes:
    side_px = dice.side_px
    weave = dice.noise(side_px // dice.pick((2, 3)), side_px // dice.pick((2, 3, 8)))
    folds = dice.noise(dice.pick((3, 5, 8)), dice.pick((3, 4, 6)))
    colour = plane(jittered(dice, dice.pick(_FABRIC_COLOURS), 0.08))
    shade = folds * np.float32(dice.uniform(0.3, 0.9)) + np.float32(0.5)
    shade *= weave * np.float32(dice.uniform(0.1, 0.4)) + np.float32(0.85)
    return colour * shade


def _draw_boards(dice: Dice) -> Planes:
    side_px = dice.side_px
    grain = dice.noise(6, side_px // 2) if dice.chance(0.5) else dice.noise(side_px // 2, 6)
    y, x = np.meshgrid(*[np.linspace(0, 1, side_px, dtype=np.float32)] * 2, indexing="ij")
    tilt = np.float32(dice.uniform(-0.6, 0.6))
    seams = ramp(waves((x + y * tilt) * np.float32(dice.uniform(3, 9))), 0.0, 0.08)
    colour = plane(jittered(dice, dice.pick(_FABRIC_COLOURS), 0.1))
    shade = grain * np.float32(dice.uniform(0.2, 0.5)) + np.float32(0.7)
    return colour * (shade * (seams * np.float32(0.5) + np.float32(0.5)))


def _draw_wall(dice: Dice) -> Planes:
    stains = dice.noise(3, 3) * np.float32(0.25) + np.float32(0.8)
    grit = dice.noise(dice.side_px // 2, dice.side_px // 2) * np.float32(dice.uniform(0.02, 0.15))
    return plane(jittered(dice, dice.pick(_FABRIC_COLOURS), 0.1)) * (stains + grit)


def _add_clutter(dice: Dice, ground: Planes) -> Planes:
    """Cushions, balls and sticks: rounded and shaded as an animal is, but with no parts."""
    for _ in range(dice.pick((0, 1, 2, 3))):
        x, y = dice.uniform(0, 1), dice.uniform(0.35, 1)
        thick = dice.uniform(0.03, 0.16)
        cone = Cone(
            x,
            y,
            x + dice.uniform(-0.3, 0.3),
            y + dice.uniform(-0.2, 0.2),
            thick,
            thick * dice.uniform(0.6, 1),
        )
        relief = draw_relief([cone], dice.side_px, 2 / dice.side_px)
        lit = light_relief(relief, dice.uniform(-0.6, 0.6), dice.uniform(-0.8, -0.1))
        texture = dice.noise(dice.pick((8, 30, 90)), dice.pick((8, 30, 90)))
        lit *= texture * np.float32(dice.uniform(0.1, 0.5)) + np.float32(0.75)
        colour = plane(jittered(dice, dice.pick(_FABRIC_COLOURS), 0.1))
        cover = ramp(relief.distance * np.float32(-dice.side_px), -0.5, 0.5)
        ground = blend(ground, colour * lit, cover)
    return ground
