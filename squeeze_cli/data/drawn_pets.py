"""Drawn pets: images and trimaps that are computed when they are read, the same on every machine.

The animals consist of rounded cones; lengths are fractions of the image's side.
"""

from dataclasses import dataclass
from hashlib import blake2b
from math import sqrt
from random import Random
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeeze_cli.config.classes import ClassEntry, ClassTable
from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.encoded import ImageFacts
from squeeze_cli.data.masks import Mask
from squeeze_cli.data.reading import DIGEST_BYTES
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.sources import DataSource, Listing

Field = NDArray[np.float32]

# Raise the version with any change of a pixel: digests, and so stored features, depend on it.
RECIPE_VERSION = 2
PET, BACKGROUND, BORDER = 1, 2, 3
# The classes of the trimaps, here and in Oxford-IIIT Pet.
PET_CLASSES = ClassTable(
    classes=(
        ClassEntry(value=PET, name="pet", colour=(0, 114, 178)),
        ClassEntry(value=BACKGROUND, name="background", colour=(240, 240, 240)),
        ClassEntry(value=BORDER, name="border", colour=(230, 159, 0)),
    ), ignore=(255,),
)  # fmt: skip
# Half the border's width: a tenth of all pixels are border, as in Oxford-IIIT Pet.
_BORDER = 4 / 224
# Eight colours of fur, then others. Backgrounds have all of them, so that no colour identifies a pet.
_COLOURS = np.array((
    (0.12, 0.11, 0.11), (0.3, 0.29, 0.29), (0.52, 0.51, 0.5), (0.36, 0.24, 0.15),
    (0.55, 0.38, 0.22), (0.76, 0.5, 0.26), (0.8, 0.68, 0.5), (0.9, 0.87, 0.82),
    (0.3, 0.36, 0.5), (0.55, 0.25, 0.25), (0.42, 0.5, 0.4), (0.4, 0.47, 0.2),
), dtype=np.float32)  # fmt: skip


@dataclass(frozen=True)
class SyntheticSample(Sample):
    """A drawn image, which depends on (seed, index, size) alone."""

    seed: int
    index: int
    image_size_px: int

    def read(self) -> "DrawnImage":
        """Return the image, which is drawn when it is decoded."""
        return DrawnImage(self.seed, self.index, self.image_size_px)

    def stamp(self) -> str:
        """Return the digest of the recipe."""
        return self.read().facts.digest

    def read_mask(self) -> Mask:
        """Draw the trimap alone."""
        rng = Random(f"{self.seed} {self.index}")
        distance, _ = _draw_outline(rng, _draw_animal(rng), self.image_size_px)
        return Mask.of_values(_trimap(distance), self.read().facts.digest)


@dataclass(frozen=True)
class DrawnImage:
    """A square image that is drawn when it is decoded."""

    seed: int
    index: int
    side_px: int

    @property
    def facts(self) -> ImageFacts:
        """Size, and digest of the values that determine every pixel."""
        recipe = f"synthetic {RECIPE_VERSION} {self.seed} {self.index} {self.side_px}"
        digest = blake2b(recipe.encode(), digest_size=DIGEST_BYTES).hexdigest()
        return ImageFacts(digest, (self.side_px, self.side_px))

    def decode(self) -> Image.Image:
        """Draw the image."""
        return draw_pet(self.seed, self.index, self.side_px)[0]

    def check(self) -> None:
        """Do nothing: a drawn image is never broken."""


@dataclass(frozen=True)
class SyntheticPetSource(DataSource):
    """Drawn animals, which need no files; results on them do not apply to photographs."""

    count_trainval: int = 160
    count_test: int = 40
    seed: int = 0
    image_size_px: int = 224

    classes = PET_CLASSES

    @classmethod
    def of(cls, config: DataConfig) -> Self:
        """Return the source of square images, whose side is the longer one of the configuration."""
        return cls(image_size_px=max(config.size_px))

    def listing(self) -> Listing:
        """List all images; the seed draws the validation images."""
        return Listing(tuple(self.samples("trainval")), test=tuple(self.samples("test")))

    def samples(self, split: str) -> list[SyntheticSample]:
        """List 'trainval' (even indices) or 'test' (odd ones)."""
        count, first = {"trainval": (self.count_trainval, 0), "test": (self.count_test, 1)}[split]
        return [
            SyntheticSample(f"synthetic_{index:06d}", self.seed, index, self.image_size_px)
            for index in range(first, 2 * count, 2)
        ]


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


def draw_pet(seed: int, index: int, side_px: int) -> tuple[Image.Image, Image.Image]:
    """Return a square RGB image and its trimap (mode 'L': 1 pet, 2 background, 3 border)."""
    rng = Random(f"{seed} {index}")
    animal = _draw_animal(rng)
    eyes, nose = ([c for c in animal if c.part == part] for part in ("eye", "nose"))
    distance, height = _draw_outline(rng, animal, side_px)
    coat = _draw_surface(rng, height, fur=True)
    picture = _paint(_draw_background(rng, side_px), coat, distance)
    pupils = [cone._replace(ra=cone.ra * 0.6, rb=cone.rb * 0.6) for cone in eyes]
    for cones, paint in ((eyes, _COLOURS[6]), (pupils + nose, _COLOURS[0])):
        picture = _paint(picture, paint, _relief_of(cones, side_px)[0])
    picture *= _noise(rng, side_px, 99, 99)[..., None] * rng.uniform(0.1, 0.5) + 0.75  # the light
    picture += _noise(rng, side_px, 1, 1)[..., None] * rng.uniform(0.01, 0.06)  # the sensor's grain
    pixels = np.clip(picture * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels), Image.fromarray(_trimap(distance))


def _draw_outline(rng: Random, animal: list[Cone], side_px: int) -> tuple[Field, Field]:
    """Return the distance to an animal's rough outline (negative inside), and its height."""
    distance, height = _relief_of([cone for cone in animal if cone.part == "fur"], side_px)
    distance += (_noise(rng, side_px, 3, 3) - 0.5) * rng.uniform(0.004, 0.028)
    return distance, height


def _trimap(distance: Field) -> NDArray[np.uint8]:
    trimap = np.where(distance < 0, PET, BACKGROUND).astype(np.uint8)
    trimap[np.abs(distance) <= _BORDER] = BORDER
    return trimap


def _draw_background(rng: Random, side_px: int) -> Field:
    """Draw two textured surfaces with objects on them, [S, S, 3] in about 0..1."""
    flat = np.zeros((side_px, side_px), dtype=np.float32)
    upper, lower = (_draw_surface(rng, flat, fur=False) for _ in range(2))
    y = np.linspace(0, 1, side_px, dtype=np.float32)[:, None] + flat
    picture = _paint(upper, lower, rng.uniform(-0.1, 0.75) - y)
    for _ in range(rng.choice((0, 1, 2, 3))):  # cushions and sticks, shaded like an animal
        x, y0, thick = rng.random(), rng.uniform(0.35, 1), rng.uniform(0.03, 0.16)
        x1, y1 = x + rng.uniform(-0.3, 0.3), y0 + rng.uniform(-0.2, 0.2)
        distance, height = _relief_of([Cone(x, y0, x1, y1, thick, thick * 0.8)], side_px)
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
    lit = _light(height, rng.uniform(-0.7, 0.7), rng.uniform(-0.9, -0.1))
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

    def placed(px: float, py: float) -> tuple[float, float]:
        return x + size * (flip * px - tilt * py), y + size * (py + tilt * flip * px)

    return [
        Cone(*placed(c.ax, c.ay), *placed(c.bx, c.by), size * c.ra, size * c.rb, size * c.z, c.part)
        for c in cones
    ]


def _relief_of(cones: list[Cone], side_px: int) -> tuple[Field, Field]:
    """Return distance to the outline (negative inside) and height of a union of cones, both [S, S]."""
    # IEEE 754 defines the rounding of + - * / sqrt, so all machines draw the same pixels.
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


def _light(height: Field, light_x: float, light_y: float) -> Field:
    """Return the brightness [S, S], 0.4 to 1.2, of a surface that is lit from (light_x, light_y, 1)."""
    slope_y, slope_x = (np.clip(slope * len(height), -2, 2) for slope in np.gradient(height))
    length = np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    length *= sqrt(light_x * light_x + light_y * light_y + 1)
    lit: Field = np.maximum((1 - slope_x * light_x - slope_y * light_y) / length, 0) * 0.75 + 0.42
    return lit


def _head(rng: Random, x: float, y: float, r: float, turn: int) -> list[Cone]:
    """Draw a head of radius r; `turn` is 0 for a frontal view, 1 for a profile."""
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
