"""Drawn pets: images with trimaps that are computed on the fly, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from random import Random

import numpy as np
from PIL import Image

from squeeze_cli.data.pet_shapes import Cone, Field, draw_animal, light, relief_of
from squeeze_cli.data.samples import DIGEST_BYTES, Sample

# Raise it with any change that changes a pixel: digests, and so stored features, depend on it.
RECIPE_VERSION = 2
PET, BACKGROUND, BORDER = 1, 2, 3
_BORDER = 4 / 224  # half its width: it then has a tenth of all pixels, as in Oxford-IIIT Pet
# Eight colours of fur, then others. Backgrounds have all, so that no colour gives a pet away.
_COLOURS = np.array((
    (0.12, 0.11, 0.11), (0.3, 0.29, 0.29), (0.52, 0.51, 0.5), (0.36, 0.24, 0.15),
    (0.55, 0.38, 0.22), (0.76, 0.5, 0.26), (0.8, 0.68, 0.5), (0.9, 0.87, 0.82),
    (0.3, 0.36, 0.5), (0.55, 0.25, 0.25), (0.42, 0.5, 0.4), (0.4, 0.47, 0.2),
), dtype=np.float32)  # fmt: skip


@dataclass(frozen=True)
class SyntheticSample(Sample):
    """An image that is drawn when it is loaded, from (seed, index, size) alone."""

    seed: int
    index: int
    image_size_px: int

    def digest(self) -> str:
        """Hex BLAKE2b-128 of the recipe, which decides every pixel."""
        recipe = f"synthetic {RECIPE_VERSION} {self.seed} {self.index} {self.image_size_px}"
        return blake2b(recipe.encode(), digest_size=DIGEST_BYTES).hexdigest()

    def load(self) -> tuple[Image.Image, Image.Image]:
        """Draw the square RGB image and its trimap; this cannot fail."""
        return draw_pet(self.seed, self.index, self.image_size_px)

    def check(self) -> None:
        """Do nothing: a drawn image is always readable."""


@dataclass(frozen=True)
class SyntheticPetSource:
    """Drawn animals, which need no data; results on them do not carry over to photographs."""

    count_trainval: int = 160
    count_test: int = 40
    seed: int = 0
    image_size_px: int = 224

    def samples(self, split: str) -> list[SyntheticSample]:
        """List 'trainval' (even indices) or 'test' (odd ones); raises ValueError otherwise."""
        if split not in ("trainval", "test"):
            raise ValueError(f"split must be 'trainval' or 'test', not {split!r}")
        count, first = (self.count_trainval, 0) if split == "trainval" else (self.count_test, 1)
        return [
            SyntheticSample(f"synthetic_{index:06d}", self.seed, index, self.image_size_px)
            for index in range(first, 2 * count, 2)
        ]


def draw_pet(seed: int, index: int, side_px: int) -> tuple[Image.Image, Image.Image]:
    """Draw a square RGB image and its trimap (mode 'L': 1 pet, 2 background, 3 border)."""
    rng = Random(f"{seed} {index}")
    animal = draw_animal(rng)
    body, eyes, nose = ([c for c in animal if c.part == part] for part in ("fur", "eye", "nose"))
    distance, height = relief_of(body, side_px)
    distance += (_noise(rng, side_px, 3, 3) - 0.5) * rng.uniform(0.004, 0.028)  # rough fur
    coat = _draw_surface(rng, height, fur=True)
    picture = _paint(_draw_background(rng, side_px), coat, distance)
    pupils = [cone._replace(ra=cone.ra * 0.6, rb=cone.rb * 0.6) for cone in eyes]
    for cones, paint in ((eyes, _COLOURS[6]), (pupils + nose, _COLOURS[0])):
        picture = _paint(picture, paint, relief_of(cones, side_px)[0])
    picture *= _noise(rng, side_px, 99, 99)[..., None] * rng.uniform(0.1, 0.5) + 0.75  # the light
    picture += _noise(rng, side_px, 1, 1)[..., None] * rng.uniform(0.01, 0.06)  # the sensor's grain
    trimap = np.where(distance < 0, PET, BACKGROUND).astype(np.uint8)
    trimap[np.abs(distance) <= _BORDER] = BORDER
    pixels = np.clip(picture * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels), Image.fromarray(trimap)


def _draw_background(rng: Random, side_px: int) -> Field:
    """Draw two textured surfaces with clutter on them, [S, S, 3] in about 0..1."""
    flat = np.zeros((side_px, side_px), dtype=np.float32)
    upper, lower = (_draw_surface(rng, flat, fur=False) for _ in range(2))
    y = np.linspace(0, 1, side_px, dtype=np.float32)[:, None] + flat
    picture = _paint(upper, lower, rng.uniform(-0.1, 0.75) - y)
    for _ in range(rng.choice((0, 1, 2, 3))):  # cushions and sticks, shaded as an animal is
        x, y0, thick = rng.random(), rng.uniform(0.35, 1), rng.uniform(0.03, 0.16)
        x1, y1 = x + rng.uniform(-0.3, 0.3), y0 + rng.uniform(-0.2, 0.2)
        distance, height = relief_of([Cone(x, y0, x1, y1, thick, thick * 0.8)], side_px)
        picture = _paint(picture, _draw_surface(rng, height, fur=False), distance)
    return picture


def _draw_surface(rng: Random, height: Field, fur: bool) -> Field:
    """Draw a lit surface [S, S, 3] in two colours; fur may be striped or spotted."""
    side_px = len(height)
    y, x = np.indices(height.shape, dtype=np.float32) / side_px
    bends, spots = _noise(rng, side_px, 37, 37), _noise(rng, side_px, 9, 9)
    phase = (x + y * rng.uniform(-0.5, 0.5)) * rng.uniform(9, 18) + bends * 3
    plain, patches, two_tone = bends * 0.3, _ramp(bends, 0.4, 0.6), _ramp(y + bends, 0.8, 1.1)
    stripes, dots = _ramp(np.abs(phase % 1 * 2 - 1), 0.35, 0.7), _ramp(spots, 0.58, 0.68)
    pattern = rng.choice((plain, patches, two_tone, stripes, dots)[: 5 if fur else 3])[..., None]
    colours = _COLOURS[:8] if fur else _COLOURS
    first, second = (rng.choice(colours) + rng.uniform(-0.1, 0.1) for _ in range(2))
    strands = _noise(rng, side_px, *rng.choice(((2, 2), (2, 8), (8, 2))))
    lit = light(height, rng.uniform(-0.7, 0.7), rng.uniform(-0.9, -0.1))
    lit *= strands * rng.uniform(0.25, 0.6) + 0.75
    return np.asarray((first + (second - first) * pattern) * lit[..., None], np.float32)


def _noise(rng: Random, side_px: int, width_px: int, height_px: int) -> Field:
    """Draw smooth noise [S, S] in 0..1: random cells of about this size, enlarged."""
    columns, rows = -(-side_px // width_px), -(-side_px // height_px)
    cells = Image.frombytes("L", (columns, rows), rng.randbytes(columns * rows))
    smooth = cells.resize((side_px, side_px), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float32) / np.float32(255)


def _ramp(field: Field, low: float, high: float) -> Field:
    """Map low..high to 0..1 and clip."""
    return np.asarray(np.clip((field - low) / (high - low), 0, 1), np.float32)


def _paint(picture: Field, paint: Field, distance: Field) -> Field:
    """Paint what lies inside of an outline, with a soft edge of about a pixel."""
    inside = _ramp(distance * len(picture), 0.7, -0.7)[..., None]
    return picture + (paint - picture) * inside
