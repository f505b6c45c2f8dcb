"""Classes of masks by their values: the table is given or detected, and values are checked."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.config.classes import MOST_CLASSES, ClassEntry, ClassTable, Colour
from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.data.masks import Mask
from squeeze_cli.data.reading import some
from squeeze_cli.errors import SqueezeError

# A message lists this many values at most.
MOST_LISTED = 10


@dataclass(frozen=True)
class Labels:
    """A mask with the class of each of its values, in their order."""

    mask: Mask
    classes: tuple[int, ...]

    def digest(self) -> str:
        """Return a text that is equal for masks of equal content and classes only."""
        return f"{self.mask.digest} {self.classes}"

    @property
    def is_labelled(self) -> bool:
        """Whether a pixel has a class, and not only ignored values."""
        return any(index != IGNORE_INDEX for index in self.classes)

    def plane(self) -> NDArray[np.uint8]:
        """Return class indices `[H, W]` uint8, with IGNORE_INDEX for ignored pixels."""
        return self.mask.plane(self.classes)


@dataclass(frozen=True)
class LabelledMasks:
    """Masks with their classes, and counts of pixels and masks.

    Attributes:
        table: The classes.
        labels: One per mask, in order.
        pixels: Number of pixels of each class, over all masks.
        images: Number of masks in which each class occurs.
        stray_pixels: Number of pixels with other values, which have the class of the nearest value.
        stray_images: Number of masks that have such pixels.
    """

    table: ClassTable
    labels: tuple[Labels, ...]
    pixels: tuple[int, ...]
    images: tuple[int, ...]
    stray_pixels: int
    stray_images: int


def detect_classes(masks: Iterable[Mask], ignore: Sequence[int]) -> ClassTable:
    """Return the table of all values in index masks, in increasing order, without those in `ignore`.

    Raises SqueezeError, with the fix, for coloured masks, and for fewer than two or more than
    `MOST_CLASSES` values.
    """
    values: Counter[int] = Counter()
    for mask in masks:
        if mask.coloured:
            found = ", ".join(f"#{value:06x}" for value in mask.values[:MOST_LISTED])
            raise SqueezeError(
                f"The masks are colours ({found}): name the class of each by --classes FILE, such as "
                "`0: {name: road, colour: [128, 64, 128]}`."
            )
        values.update(mask.values)
    kept = sorted(set(values) - set(ignore))
    if len(kept) < 2:
        found = ", ".join(map(str, sorted(values))) or "none"
        ignored = f", of which {', '.join(map(str, ignore))} is ignored" if ignore else ""
        raise SqueezeError(
            f"The masks have fewer than two classes (values found: {found}{ignored}): --ignore-index "
            "-1 counts all values, --classes FILE names the classes."
        )
    if len(kept) > MOST_CLASSES:
        raise SqueezeError(
            f"The masks have {len(kept)} different values from {kept[0]} to {kept[-1]}, and there are "
            f"at most {MOST_CLASSES} classes: are they photographs, or colours turned into grey? Store "
            "one value for each class, or RGB colours and --classes FILE."
        )
    entries = tuple(ClassEntry(value=value, name=f"class {value}") for value in kept)
    return ClassTable(classes=entries, ignore=tuple(ignore))


def label_masks(
    masks: Sequence[tuple[str, Mask]], table: ClassTable, stray_share: float, fix: str
) -> LabelledMasks:
    """Assign a class to each value of masks, which come with their names, by the table.

    If at most `stray_share` of a mask's pixels have values that are neither classes nor ignored, these
    pixels get the class of the nearest value. Otherwise raises SqueezeError: one line with the values,
    the number of masks per value, and `fix`. Raises SqueezeError too for palettes that contradict each
    other, or the table.
    """
    known = {(False, value): index for index, value in enumerate(table.values)}
    known |= {(True, _packed(e.colour)): i for i, e in enumerate(table.classes) if e.colour}
    for value in table.ignore or ():
        known[(False, value) if isinstance(value, int) else (True, _packed(value))] = IGNORE_INDEX
    unknown: Counter[tuple[bool, int]] = Counter()  # number of masks by (is a colour, value)
    wrong: list[str] = []
    labels, stray_pixels, stray_images = [], 0, 0
    pixels, images = np.zeros((2, 256), np.int64)
    for name, mask in masks:
        keys = [(mask.coloured, value) for value in mask.values]
        strays = {k: n for k, n in zip(keys, mask.counts, strict=True) if k not in known}
        if sum(strays.values()) > stray_share * sum(mask.counts):
            wrong.append(name)
            unknown.update(list(strays))
            continue
        stray_pixels += sum(strays.values())
        stray_images += bool(strays)
        classes = [known[k] if k in known else _nearest(k[1], table.values) for k in keys]
        np.add.at(pixels, classes, mask.counts)
        images[list(set(classes))] += 1
        labels.append(Labels(mask, tuple(classes)))
    if wrong:
        raise SqueezeError(
            f"{len(wrong)} of {len(masks)} masks hold values that belong to no class: "
            f"{_unknown_and_expected(unknown, table)}. For example {wrong[0]}. {fix}"
        )
    _require_one_meaning(masks, table)
    count = len(table)
    return LabelledMasks(
        table, tuple(labels), tuple(pixels[:count].tolist()), tuple(images[:count].tolist()),
        stray_pixels, stray_images,
    )  # fmt: skip


def _require_one_meaning(masks: Sequence[tuple[str, Mask]], table: ClassTable) -> None:
    """Raise SqueezeError if a colour is drawn for different classes, by palettes or the table.

    Programs that reduce colours to a palette order it anew for each image, so the same value may be
    another class in the next mask.
    """
    meanings = {_packed(e.colour): (e.value, "the classes") for e in table.classes if e.colour}
    classes = set(table.values)
    for name, mask in masks:
        for value, colour in (each for each in mask.drawn if each[0] in classes):
            first, where = meanings.setdefault(colour, (value, name))
            if value != first:
                raise SqueezeError(
                    f"The colour #{colour:06x} is value {first} in {where}, but {value} in the palette "
                    f"of {name}: store RGB images, and their colours in the file of --classes, or give "
                    "all masks the same palette."
                )


def _packed(colour: Colour) -> int:
    return int.from_bytes(bytes(colour))


def _nearest(value: int, values: Sequence[int]) -> int:
    return min(range(len(values)), key=lambda index: abs(values[index] - value))


def _unknown_and_expected(unknown: Counter[tuple[bool, int]], table: ClassTable) -> str:
    """Return words on unknown values, with the number of masks per value, and on expected values."""
    words = [
        f"{f'#{value:06x}' if coloured else value} in {count} image{'s' * (count > 1)}"
        for (coloured, value), count in sorted(unknown.items())
    ]
    expected = [str(value) for value in table.values]
    if any(coloured for coloured, _ in unknown):
        expected = [f"#{_packed(e.colour):06x}" for e in table.classes if e.colour]
    ignored = [str(value) for value in table.ignore or () if isinstance(value, int)]
    found = some(expected, MOST_LISTED) or "none (no class has a colour)"
    rest = f", and {some(ignored, MOST_LISTED)} is ignored" if ignored else ""
    return f"{some(words, MOST_LISTED)}; expected are {found}{rest}"
