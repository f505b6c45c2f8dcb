"""Sizes of images in pixels: a square is its side, every other one is height and width."""

from collections.abc import Sequence

Size = tuple[int, int]  # height and width


def short_size(sides: Sequence[int]) -> int | list[int]:
    """Return a size as JSON has it: the side of a square, or height and width."""
    return sides[0] if len(set(sides)) == 1 else list(sides)


def size_text(size: int | Sequence[int]) -> str:
    """Return a size as `--image-size` takes it: `224`, or `480x640`."""
    short = size if isinstance(size, int) else short_size(size)
    return str(short) if isinstance(short, int) else "x".join(map(str, short))
