"""Drawn pets: images and trimaps that are computed when they are read, the same on every machine.

The animals consist of rounded cones; lengths are fractions of the image's side.
"""

from dataclasses import dataclass
from math import sqrt
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeeze_cli.data.encoded import ImageFacts, ReadImage
from squeeze_cli.data.known_sets import BACKGROUND, BORDER, PET, PET_CLASSES
from squeeze_cli.data.masks import Mask
from squeeze_cli.data.reading import hex_digest
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.sources import DataSource, Listing

Field = NDArray[np.float32]
Point = tuple[float, float]  # x and y

# Raise the version with any change of a pixel: digests, and so stored features, depend on it.
RECIPE_VERSION = 2
# Half the border's width: a tenth of all pixels are border, as in Oxford-IIIT Pet.
_BORDER = 4 / 224
# Eight colours of fur, then others. Backgrounds have all of them, so that no colour identifies a pet.
_COLOURS = np.array((
    (12, 11, 11), (30, 29, 29), (52, 51, 50), (36, 24, 15), (55, 38, 22), (76, 50, 26),
    (80, 68, 50), (90, 87, 82), (30, 36, 50), (55, 25, 25), (42, 50, 40), (40, 47, 20),
), np.float32) / 100  # fmt: skip
_DARK, _EYE = 0, 6  # colours of pupils and nose, and of eyes


@dataclass(frozen=True)
class DrawnImage(ReadImage):
    """A square image that is drawn when it is decoded."""

    seed: int
    index: int

    def decode(self) -> Image.Image:
        """Draw the image."""
        return draw_pet(self.seed, self.index, self.facts.size_px[0])[0]


@dataclass(frozen=True)
class SyntheticSample(Sample):
    """A drawn image, which depends on (seed, index, size) alone."""

    seed: int
    index: int
    image_size_px: int

    def read(self) -> DrawnImage:
        """Return the image, with the digest of the values that determine every pixel."""
        side_px = self.image_size_px
        recipe = f"synthetic {RECIPE_VERSION} {self.seed} {self.index} {side_px}"
        facts = ImageFacts(hex_digest(recipe.encode()), (side_px, side_px))
        return DrawnImage(facts, self.seed, self.index)

    def stamp(self) -> str:
        """Return the digest of the recipe."""
        return self.read().facts.digest

    def read_mask(self) -> Mask:
        """Draw the trimap alone."""
        *_, trimap = _sketch(Random(f"{self.seed} {self.index}"), self.image_size_px)
        return Mask.of_bytes(trimap, self.stamp())


class SyntheticPetSource(DataSource):
    """Drawn animals, which need no files; results on them do not apply to photographs."""

    classes = PET_CLASSES

    def listing(self) -> Listing:
        """List all images, those of the test by odd indices; the seed draws the validation images."""
        side_px = max(self.config.size_px)
        samples = [SyntheticSample(f"synthetic_{i:06d}", 0, i, side_px) for i in range(320)]
        return Listing(tuple(samples[::2]), test=tuple(samples[1:80:2]))


class Cone(NamedTuple):
    """A rounded cone from a, with radius ra, to b, raised by z; `colour` is None for fur."""

    a: Point
    b: Point
    ra: float
    rb: float
    z: float = 0.0
    colour: int | None = None


def draw_pet(seed: int, index: int, side_px: int) -> tuple[Image.Image, Image.Image]:
    """Return a square RGB image and its trimap (mode 'L': 1 pet, 2 background, 3 border)."""
    rng = Random(f"{seed} {index}")
    animal, distance, height, trimap = _sketch(rng, side_px)
    coat = _draw_surface(rng, height, fur=True)
    picture = _paint(_draw_background(rng, side_px), coat, distance)
    for colour in (_EYE, _DARK):
        picture = _paint(picture, _COLOURS[colour], _relief(animal, side_px, colour)[0])
    picture *= _noise(rng, side_px, 99, 99)[..., None] * rng.uniform(0.1, 0.5) + 0.75  # the light
    picture += _noise(rng, side_px, 1, 1)[..., None] * rng.uniform(0.01, 0.06)  # the sensor's grain
    pixels = np.clip(picture * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels), trimap


def _sketch(rng: Random, side_px: int) -> tuple[list[Cone], Field, Field, Image.Image]:
    """Return an animal, the distance to its rough outline (negative inside), its height and trimap."""
    animal = _draw_animal(rng)
    distance, height = _relief(animal, side_px)
    distance += (_noise(rng, side_px, 3, 3) - 0.5) * rng.uniform(0.004, 0.028)
    trimap = np.select([np.abs(distance) <= _BORDER, distance < 0], [BORDER, PET], BACKGROUND)
    return animal, distance, height, Image.fromarray(trimap.astype(np.uint8))


def _draw_background(rng: Random, side_px: int) -> Field:
    """Draw two textured surfaces with objects on them, [S, S, 3] in about 0..1."""
    upper, lower = (_draw_surface(rng, np.zeros((side_px, side_px), np.float32)) for _ in range(2))
    below = np.linspace(0, 1, side_px, dtype=np.float32)[:, None]
    picture = _paint(upper, lower, rng.uniform(-0.1, 0.75) - below)
    for _ in range(rng.choice((0, 1, 2, 3))):  # cushions and sticks, shaded like an animal
        x, y, thick = rng.random(), rng.uniform(0.35, 1), rng.uniform(0.03, 0.16)
        end = (x + rng.uniform(-0.3, 0.3), y + rng.uniform(-0.2, 0.2))
        distance, height = _relief([Cone((x, y), end, thick, thick * 0.8)], side_px)
        picture = _paint(picture, _draw_surface(rng, height), distance)
    return picture


def _draw_surface(rng: Random, height: Field, fur: bool = False) -> Field:
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
    light_x, light_y = rng.uniform(-0.7, 0.7), rng.uniform(-0.9, -0.1)
    slope_y, slope_x = (np.clip(slope * side_px, -2, 2) for slope in np.gradient(height))
    length = np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    length *= sqrt(light_x * light_x + light_y * light_y + 1)
    lit = np.maximum((1 - slope_x * light_x - slope_y * light_y) / length, 0) * 0.75 + 0.42
    lit *= strands * rng.uniform(0.25, 0.6) + 0.75
    return np.asarray((first + (second - first) * pattern) * lit[..., None], np.float32)


def _noise(rng: Random, side_px: int, width_px: int, height_px: int) -> Field:
    """Draw smooth noise [S, S] in 0..1: random cells of about this size, interpolated."""
    columns, rows = -(-side_px // width_px), -(-side_px // height_px)
    cells = Image.frombytes("L", (columns, rows), rng.randbytes(columns * rows))
    smooth = cells.resize((side_px, side_px), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float32) / np.float32(255)


def _ramp(field: Field, low: float, high: float) -> Field:
    """Map low..high to 0..1 and clip."""
    return np.asarray(np.clip((field - low) / (high - low), 0, 1), np.float32)


def _paint(picture: Field, paint: Field, distance: Field) -> Field:
    """Paint the inside of an outline, with a soft edge of about a pixel."""
    inside = _ramp(distance * len(picture), 0.7, -0.7)[..., None]
    return picture + (paint - picture) * inside


def _draw_animal(rng: Random) -> list[Cone]:
    """Draw a pose, its proportions and its place in the image."""
    cones = rng.choice((_stand, _sit, _look))(rng)
    size, tilt, flip = rng.uniform(0.4, 0.65), rng.uniform(-0.2, 0.2), rng.choice((-1, 1))
    x, y = rng.uniform(0.38, 0.62), rng.uniform(0.46, 0.6)

    def placed(px: float, py: float) -> Point:
        return x + size * (flip * px - tilt * py), y + size * (py + tilt * flip * px)

    return [
        Cone(placed(*a), placed(*b), size * ra, size * rb, size * z, colour)
        for a, b, ra, rb, z, colour in cones
    ]


def _relief(cones: list[Cone], side_px: int, colour: int | None = None) -> tuple[Field, Field]:
    """Return distance to the outline (negative inside) and height of cones of a colour, both [S, S]."""
    # IEEE 754 defines the rounding of + - * / sqrt, so all machines draw the same pixels.
    centres = (np.arange(side_px, dtype=np.float32) + 0.5) / side_px
    distance, height = (np.full((side_px, side_px), start, np.float32) for start in (10, 0))
    for (ax, ay), (bx, by), ra, rb, z, _ in (cone for cone in cones if cone.colour == colour):
        along_x, along_y = bx - ax, by - ay
        squared = max(along_x * along_x + along_y * along_y, 1e-9)
        dx, dy = centres[None, :] - ax, centres[:, None] - ay
        share = np.clip(dx * (along_x / squared) + dy * (along_y / squared), 0, 1)
        off_x, off_y = dx - share * along_x, dy - share * along_y
        to_axis = np.sqrt(off_x * off_x + off_y * off_y)
        radius = ra + share * (rb - ra)
        np.minimum(distance, to_axis - radius, out=distance)
        dome = np.sqrt(np.maximum(radius * radius - to_axis * to_axis, 0))
        np.maximum(height, dome + z * (dome > 0), out=height)
    return distance, height


def _head(rng: Random, x: float, y: float, r: float, turn: int) -> list[Cone]:
    """Draw a head of radius r; `turn` is 0 for a frontal view, 1 for a profile."""
    cones = [Cone((x, y - 0.1 * r), (x, y + rng.uniform(0, 0.25) * r), r, 0.9 * r, 0.15)]
    floppy, ear = rng.random() < 0.4, r * rng.uniform(0.75, 1.1)
    lean, drop, root, tip = (0.7, 1.2, 0.34, 0.42) if floppy else (0.3, -0.95, 0.48, 0.07)
    for side in (-1, 1):
        ax, ay = x + r * (side * (0.62 - 0.3 * turn) - 0.25 * turn), y - 0.62 * r
        end = (ax + side * ear * lean, ay + ear * drop)
        cones.append(Cone((ax, ay), end, ear * root, ear * tip, 0.1))
    for side in (-1, 1)[turn:]:  # a profile shows one eye
        eye = (x + 0.4 * side * r, y - 0.15 * r)
        cones += [Cone(eye, eye, s * r, s * r, 0, c) for s, c in ((0.16, _EYE), (0.096, _DARK))]
    muzzle, tip_y = r * rng.uniform(0.32, 0.45), y + r * rng.uniform(0.3, 0.5)
    tip_x = x + turn * r * rng.uniform(0.9, 1.5)
    cones.append(Cone((x + 0.3 * turn * r, tip_y), (tip_x, tip_y), muzzle * 1.1, muzzle, 0.3))
    nose = (tip_x + turn * muzzle * 0.7, tip_y - 0.35 * muzzle)
    return [*cones, Cone(nose, nose, muzzle / 3, muzzle / 3, 0, _DARK)]


def _stand(rng: Random) -> list[Cone]:
    girth, leg, foot = rng.uniform(0.2, 0.3), rng.uniform(0.06, 0.09), rng.uniform(0.35, 0.68)
    head = (rng.uniform(0.58, 0.72), rng.uniform(-0.5, -0.2))
    legs = ((-0.3, -0.1), (0.24, -0.1), (-0.46, 0.1), (0.38, 0.1))
    return [
        Cone((-0.58, -0.1), (rng.uniform(-1, -0.7), rng.uniform(-0.6, 0.2)), 0.07, 0.04),  # tail
        *(Cone((x, 0.1), (x + rng.uniform(-0.1, 0.1), foot), leg * 1.4, leg, z) for x, z in legs),
        Cone((-0.42, 0), (0.36, -0.02), girth, girth * rng.uniform(0.85, 1.1)),
        Cone((0.36, -0.08), head, 0.2, 0.14, 0.04),
        *_head(rng, *head, rng.uniform(0.18, 0.24), rng.choice((0, 1))),
    ]


def _sit(rng: Random) -> list[Cone]:
    return [
        Cone((-0.3, 0.56), (rng.uniform(-0.8, -0.5), rng.uniform(0, 0.6)), 0.07, 0.04),  # tail
        Cone((0, -0.12), (0, 0.34), rng.uniform(0.19, 0.25), rng.uniform(0.28, 0.36)),
        *(Cone((0.14 * x, 0.15), (0.25 * x, 0.62), 0.14, 0.09, 0.14) for x in (-1, 1)),
        *_head(rng, rng.uniform(-0.08, 0.08), rng.uniform(-0.5, -0.38), rng.uniform(0.22, 0.29), 0),
    ]


def _look(rng: Random) -> list[Cone]:
    chest = Cone((0, 0.5), (rng.uniform(-0.25, 0.25), 1.6), rng.uniform(0.35, 0.5), 0.75)
    return [chest, *_head(rng, 0, rng.uniform(-0.15, 0.05), rng.uniform(0.45, 0.6), 0)]
