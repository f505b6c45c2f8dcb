"""One synthetic photograph: backdrop, shadow, animal and its coat, light, grain, and trimap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from squeeze_cli.data.synthetic.animal import Animal, draw_animal
from squeeze_cli.data.synthetic.backdrop import (
    COAT_COLOURS,
    Colour,
    Planes,
    blend,
    draw_backdrop,
    jittered,
    plane,
    ramp,
    waves,
)
from squeeze_cli.data.synthetic.dice import Dice, Field
from squeeze_cli.data.synthetic.shapes import (
    Cone,
    Relief,
    draw_relief,
    light_relief,
    outline_distance,
)

# Raise it with any change that changes a pixel: digests are taken of it.
RECIPE_VERSION = 1
PET, BACKGROUND, BORDER = 1, 2, 3

# Half the width of the trimap's border in units of the image's side: 4 pixels of 224, so that the
# border has about a tenth of all pixels, as in Oxford-IIIT Pet.
_BORDER = 4 / 224
_EYE_COLOURS: tuple[Colour, ...] = (
    (0.75, 0.6, 0.2),
    (0.4, 0.55, 0.3),
    (0.35, 0.2, 0.1),
    (0.5, 0.65, 0.75),
)


def render_scene(seed: int, index: int, side_px: int) -> tuple[Image.Image, Image.Image]:
    """Draw image number `index`: RGB and trimap (mode 'L': 1 pet, 2 background, 3 border).

    Args:
        seed: of the whole collection.
        index: of the image in it.
        side_px: S, side of both square images in pixels, 16 or more.
    """
    dice = Dice(seed, index, side_px)
    animal = draw_animal(dice)
    planes = _add_shadow(dice, draw_backdrop(dice), animal)
    bare = draw_relief(animal.body, side_px, 2 * _BORDER)
    # Fur: the outline is ragged by 0.002 to 0.014 of the side, depending on the animal.
    ragged = (dice.noise(side_px // 3, side_px // 3) - np.float32(0.5)) * np.float32(
        dice.uniform(0.004, 0.028)
    )
    relief = Relief(bare.distance + ragged, bare.height)
    cover = ramp(relief.distance * np.float32(-side_px), -0.7, 0.7)
    planes = blend(planes, _draw_coat(dice, relief), cover)
    planes = _add_face(dice, planes, animal)
    return _develop(dice, planes), _draw_trimap(relief)


def _add_shadow(dice: Dice, planes: Planes, animal: Animal) -> Planes:
    left, right = animal.centre_x - animal.width, animal.centre_x + animal.width
    thick = dice.uniform(0.05, 0.12)
    cone = Cone(left, animal.ground_y, right, animal.ground_y, thick, thick)
    shadow = draw_relief([cone], dice.side_px, 0.06)
    strength = np.float32(dice.uniform(0.2, 0.6))
    return planes * (np.float32(1) - ramp(-shadow.distance, -0.05, 0.05) * strength)


def _draw_coat(dice: Dice, relief: Relief) -> Planes:
    """Colour, pattern, strands and light of the fur, [3, S, S], drawn over the whole image."""
    side_px = dice.side_px
    first = jittered(dice, dice.pick(COAT_COLOURS), 0.06)
    second = jittered(dice, dice.pick(COAT_COLOURS), 0.06)
    coat = blend(plane(first), plane(second), _draw_pattern(dice))
    long, short = side_px // dice.pick((6, 10)), side_px // 2
    strands = dice.noise(long, short) if dice.chance(0.5) else dice.noise(short, long)
    lit = light_relief(relief, dice.uniform(-0.7, 0.7), dice.uniform(-0.9, -0.1))
    lit *= strands * np.float32(dice.uniform(0.25, 0.6)) + np.float32(0.75)
    return coat * lit


def _draw_pattern(dice: Dice) -> Field:
    """Share of the second colour, [S, S] in 0..1: plain, tabby, spotted, patched or two-tone."""
    side_px = dice.side_px
    y, x = np.meshgrid(*[np.linspace(0, 1, side_px, dtype=np.float32)] * 2, indexing="ij")
    kind = dice.pick(("plain", "tabby", "spotted", "patched", "two-tone"))
    coarse = dice.noise(6, 6)
    if kind == "plain":
        return coarse * np.float32(0.3)
    if kind == "tabby":
        tilt = np.float32(dice.uniform(-0.5, 0.5))
        phase = (x + y * tilt) * np.float32(dice.uniform(9, 18)) + coarse * np.float32(3)
        return ramp(waves(phase), 0.35, 0.7)
    if kind == "spotted":
        cells = dice.pick((18, 26, 34))
        return ramp(dice.noise(cells, cells), 0.58, 0.68)
    if kind == "patched":
        return ramp(coarse, 0.48, 0.54)
    return ramp(y + coarse * np.float32(0.3), dice.uniform(0.4, 0.7), 0.8)


def _add_face(dice: Dice, planes: Planes, animal: Animal) -> Planes:
    iris = plane(jittered(dice, dice.pick(_EYE_COLOURS), 0.08))
    planes = _paint(planes, animal.eyes, iris)
    pupils = [Cone(e.ax, e.ay, e.bx, e.by, e.ra * 0.6, e.rb * 0.6) for e in animal.eyes]
    planes = _paint(planes, pupils, plane((0.03, 0.03, 0.03)))
    glints = [
        Cone(*(2 * (e.ax - e.ra * 0.25, e.ay - e.ra * 0.3)), e.ra * 0.2, e.ra * 0.2)
        for e in animal.eyes
    ]
    planes = _paint(planes, glints, plane((0.95, 0.95, 0.95)))
    return _paint(planes, animal.dark, plane(jittered(dice, (0.14, 0.09, 0.08), 0.05)))


def _paint(planes: Planes, cones: Sequence[Cone], colour: Planes) -> Planes:
    """Paint small cones in place, touching only the pixels around each."""
    side_px = planes.shape[1]
    for cone in cones:
        rows, columns, distance = outline_distance(cone, side_px, 2 / side_px)
        cover = ramp(distance * np.float32(-side_px), -0.5, 0.5)
        planes[:, rows, columns] = blend(planes[:, rows, columns], colour, cover)
    return planes


def _develop(dice: Dice, planes: Planes) -> Image.Image:
    """Exposure, colour of the light, its fall-off across the image, and the sensor's grain."""
    side_px = dice.side_px
    warmth = dice.uniform(-0.08, 0.08)
    exposure = dice.uniform(0.75, 1.2)
    tint = plane((exposure * (1 + warmth), exposure, exposure * (1 - warmth)))
    fall_off = dice.noise(2, 2) * np.float32(dice.uniform(0.1, 0.45)) + np.float32(0.85)
    grain = dice.noise(side_px, side_px) * np.float32(dice.uniform(0.01, 0.06))
    levels = (planes * tint * fall_off + grain) * np.float32(255) + np.float32(0.5)
    pixels = np.clip(levels, 0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _draw_trimap(relief: Relief) -> Image.Image:
    trimap = np.full(relief.distance.shape, BORDER, dtype=np.uint8)
    trimap[relief.distance < -_BORDER] = PET
    trimap[relief.distance > _BORDER] = BACKGROUND
    return Image.fromarray(trimap)
