"""Sizes of images in pixels: one number for a square, or height and width."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

Size = tuple[int, int]  # height and width
SIDES_PX = range(32, 8193)


def short_size(sides: Sequence[int]) -> int | list[int]:
    """Return a size in the form of JSON files: the side of a square, or height and width."""
    return sides[0] if len(set(sides)) == 1 else list(sides)


def size_text(size: int | Sequence[int]) -> str:
    """Return a size in the form of `--image-size`: `224`, or `480x640`."""
    short = size if isinstance(size, int) else short_size(size)
    return str(short) if isinstance(short, int) else "x".join(map(str, short))


def _check_size(value: object) -> int | str:
    """Return the side of a square, or the text `HxW` where the sides differ."""
    sides = str(value).split("x")
    if len(sides) > 2 or not all(
        side.isdecimal() and len(side) < 6 and int(side) in SIDES_PX for side in sides
    ):
        raise ValueError(
            "must be a side in pixels or height x width, such as 480x640, each "
            f"{SIDES_PX[0]} to {SIDES_PX[-1]}"
        )
    text = size_text([int(side) for side in sides])
    return int(text) if text.isdecimal() else text


ImageSize = Annotated[
    int | str,
    BeforeValidator(_check_size),
    WithJsonSchema({"anyOf": [
        {"type": "integer", "minimum": SIDES_PX[0], "maximum": SIDES_PX[-1]},
        {"type": "string", "pattern": "^[0-9]+(x[0-9]+)?$"},
    ]}),
]  # fmt: skip
