"""The body plans: an animal as rounded cones and the marks of its face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from squeeze_cli.data.synthetic.dice import Dice
from squeeze_cli.data.synthetic.shapes import Cone, placed


@dataclass(frozen=True)
class Animal:
    """What is drawn: cones of fur, then marks painted over them.

    Attributes:
        body: cones covered in the coat.
        eyes: one cone an eye, in the iris's colour; pupil and glint are painted inside it.
        dark: nose and mouth.
        ground_y: where the feet are, for the shadow.
        centre_x: the middle of the shadow.
        width: half the width of the shadow.
    """

    body: tuple[Cone, ...]
    eyes: tuple[Cone, ...]
    dark: tuple[Cone, ...]
    ground_y: float
    centre_x: float
    width: float


@dataclass
class _Plan:
    """Cones in the animal's own frame: about one unit long, feet near y = 0.7."""

    body: list[Cone]
    eyes: list[Cone]
    dark: list[Cone]


def draw_animal(dice: Dice) -> Animal:
    """Draw a pose, its proportions, and its place in the image."""
    build, scale_low, scale_high = dice.pick(_POSES)
    plan = build(dice)
    scale = dice.uniform(scale_low, scale_high)
    x, y = dice.uniform(0.38, 0.62), dice.uniform(0.46, 0.6)
    angle, mirrored = dice.uniform(-0.16, 0.16), dice.chance(0.5)

    def all_placed(cones: list[Cone]) -> tuple[Cone, ...]:
        return tuple(placed(cone, x, y, scale, angle, mirrored) for cone in cones)

    ground_y, width = y + 0.7 * scale, 0.75 * scale
    return Animal(
        all_placed(plan.body), all_placed(plan.eyes), all_placed(plan.dark), ground_y, x, width
    )


def _leg(dice: Dice, x: float, top: float, foot: float, radius: float, z: float) -> list[Cone]:
    knee_x, foot_x = x + dice.uniform(-0.07, 0.07), x + dice.uniform(-0.1, 0.1)
    knee_y = (top + foot) / 2
    return [
        Cone(x, top, knee_x, knee_y, radius * 1.3, radius, z),
        Cone(knee_x, knee_y, foot_x, foot, radius, radius * 0.75, z),
        Cone(foot_x, foot, foot_x + 0.06, foot + 0.02, radius * 0.8, radius * 0.7, z),
    ]


def _tail(dice: Dice, x: float, y: float, away: float) -> list[Cone]:
    mid_x, mid_y = x + away * dice.uniform(0.15, 0.3), y + dice.uniform(-0.25, 0.15)
    end_x, end_y = mid_x + away * dice.uniform(-0.05, 0.2), mid_y + dice.uniform(-0.35, 0.1)
    thick = dice.uniform(0.035, 0.07)
    return [
        Cone(x, y, mid_x, mid_y, thick * 1.2, thick),
        Cone(mid_x, mid_y, end_x, end_y, thick, thick * 0.6),
    ]


def _ear(dice: Dice, x: float, y: float, out: float, size: float, floppy: bool) -> Cone:
    if floppy:
        droop = dice.uniform(0.9, 1.5)
        return Cone(x, y, x + out * size * 0.7, y + size * droop, size * 0.34, size * 0.42, 0.12)
    lean = dice.uniform(0.15, 0.5)
    return Cone(x, y, x + out * size * lean, y - size * 0.95, size * 0.48, size * 0.07, 0.02)


def _frontal_head(dice: Dice, plan: _Plan, x: float, y: float, radius: float) -> None:
    """A head that looks at the viewer."""
    floppy = dice.chance(0.4)
    size = radius * dice.uniform(0.75, 1.1)
    for side in (-1.0, 1.0):
        plan.body.append(
            _ear(dice, x + side * radius * 0.62, y - radius * 0.62, side, size, floppy)
        )
    long = dice.uniform(0.0, 0.25)
    plan.body.append(Cone(x, y - 0.1 * radius, x, y + long * radius, radius, radius * 0.9, 0.15))
    muzzle_y = y + radius * dice.uniform(0.35, 0.55)
    muzzle = radius * dice.uniform(0.32, 0.45)
    plan.body.append(
        Cone(x - 0.1 * radius, muzzle_y, x + 0.1 * radius, muzzle_y, muzzle, muzzle, 0.3)
    )
    apart, eye = radius * dice.uniform(0.34, 0.46), radius * dice.uniform(0.12, 0.19)
    eye_y = y - radius * dice.uniform(0.05, 0.22)
    plan.eyes += [
        Cone(x + side * apart, eye_y, x + side * apart, eye_y, eye, eye) for side in (-1, 1)
    ]
    nose = radius * dice.uniform(0.09, 0.15)
    nose_y = muzzle_y - muzzle * 0.35
    plan.dark.append(Cone(x - nose * 0.5, nose_y, x + nose * 0.5, nose_y, nose, nose))
    plan.dark.append(Cone(x, nose_y, x, muzzle_y + muzzle * 0.5, 0.08 * muzzle, 0.08 * muzzle))


def _side_head(dice: Dice, plan: _Plan, x: float, y: float, radius: float) -> None:
    """A head in profile that looks to the right."""
    floppy = dice.chance(0.5)
    size = radius * dice.uniform(0.8, 1.15)
    plan.body.append(_ear(dice, x - radius * 0.1, y - radius * 0.7, 0.5, size, False))
    plan.body.append(Cone(x, y, x + 0.1 * radius, y, radius, radius * 0.95, 0.12))
    reach, muzzle = radius * dice.uniform(0.7, 1.35), radius * dice.uniform(0.38, 0.5)
    tip_x, tip_y = x + reach + radius * 0.25, y + radius * dice.uniform(0.2, 0.42)
    plan.body.append(
        Cone(x + 0.3 * radius, tip_y - 0.05, tip_x, tip_y, muzzle * 1.2, muzzle * 0.8, 0.2)
    )
    plan.body.append(_ear(dice, x - radius * 0.45, y - radius * 0.6, -0.5, size, floppy))
    eye = radius * dice.uniform(0.13, 0.19)
    eye_x, eye_y = x + radius * 0.42, y - radius * 0.22
    plan.eyes.append(Cone(eye_x, eye_y, eye_x, eye_y, eye, eye))
    nose = muzzle * 0.35
    nose_x = tip_x + muzzle * 0.45
    plan.dark.append(Cone(nose_x, tip_y - muzzle * 0.3, nose_x, tip_y - muzzle * 0.2, nose, nose))


def _head(dice: Dice, plan: _Plan, x: float, y: float, radius: float) -> None:
    (_frontal_head if dice.chance(0.45) else _side_head)(dice, plan, x, y, radius)


def _standing(dice: Dice) -> _Plan:
    plan = _Plan([], [], [])
    girth, foot = dice.uniform(0.2, 0.3), dice.uniform(0.5, 0.68)
    leg = dice.uniform(0.06, 0.09)
    plan.body += _tail(dice, -0.58, -0.1, -1.0)
    plan.body += _leg(dice, -0.3, 0.1, foot - 0.03, leg, -0.1)
    plan.body += _leg(dice, 0.24, 0.1, foot - 0.03, leg, -0.1)
    plan.body.append(Cone(-0.42, 0.0, 0.36, -0.02, girth, girth * dice.uniform(0.85, 1.1)))
    plan.body += _leg(dice, -0.46, 0.08, foot, leg * 1.15, 0.1)
    plan.body += _leg(dice, 0.38, 0.1, foot, leg, 0.1)
    head_x, head_y = dice.uniform(0.58, 0.72), dice.uniform(-0.5, -0.2)
    plan.body.append(Cone(0.36, -0.08, head_x, head_y, 0.2, 0.14, 0.04))
    _head(dice, plan, head_x, head_y, dice.uniform(0.18, 0.24))
    return plan


def _lying(dice: Dice) -> _Plan:
    plan = _Plan([], [], [])
    girth = dice.uniform(0.22, 0.29)
    plan.body += _tail(dice, -0.6, 0.3, -1.0)
    plan.body.append(Cone(-0.42, 0.22, 0.3, 0.2, girth * 1.1, girth))
    plan.body.append(Cone(-0.38, 0.3, -0.22, 0.4, 0.2, 0.14, 0.1))
    plan.body.append(Cone(-0.24, 0.48, 0.0, 0.5, 0.08, 0.06, 0.12))
    reach = dice.uniform(0.55, 0.85)
    plan.body.append(Cone(0.28, 0.38, reach, 0.48, 0.1, 0.07, 0.1))
    plan.body.append(Cone(0.2, 0.42, reach - 0.1, 0.54, 0.1, 0.075, 0.14))
    head_x, head_y = dice.uniform(0.42, 0.6), dice.uniform(-0.22, 0.12)
    plan.body.append(Cone(0.3, 0.1, head_x, head_y, 0.22, 0.16, 0.04))
    _head(dice, plan, head_x, head_y, dice.uniform(0.19, 0.25))
    return plan


def _sitting(dice: Dice) -> _Plan:
    plan = _Plan([], [], [])
    side = dice.pick((-1.0, 1.0))
    plan.body += _tail(dice, 0.3 * side, 0.56, side)
    plan.body.append(Cone(0, -0.12, 0, 0.34, dice.uniform(0.19, 0.25), dice.uniform(0.28, 0.36)))
    for leg_side in (-1.0, 1.0):
        plan.body.append(Cone(0.25 * leg_side, 0.42, 0.33 * leg_side, 0.6, 0.16, 0.1, 0.02))
        plan.body += _leg(dice, 0.11 * leg_side, 0.12, 0.64, dice.uniform(0.065, 0.085), 0.16)
    _head(
        dice, plan, dice.uniform(-0.08, 0.08), dice.uniform(-0.5, -0.38), dice.uniform(0.22, 0.29)
    )
    return plan


def _portrait(dice: Dice) -> _Plan:
    plan = _Plan([], [], [])
    lean = dice.uniform(-0.25, 0.25)
    plan.body.append(Cone(lean * 0.5, 0.4, lean, 1.3, dice.uniform(0.3, 0.42), 0.65))
    _head(dice, plan, 0, dice.uniform(-0.1, 0.05), dice.uniform(0.4, 0.5))
    return plan


# (body plan, smallest and largest size in units of the image's side)
_POSES: tuple[tuple[Callable[[Dice], _Plan], float, float], ...] = (
    (_standing, 0.34, 0.56),
    (_lying, 0.36, 0.6),
    (_sitting, 0.4, 0.62),
    (_portrait, 0.5, 0.75),
)
