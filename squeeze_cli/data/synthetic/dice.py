"""Random scalars and noise fields from raw PCG64 output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

T = TypeVar("T")
Field = NDArray[np.float32]


class Dice:
    """Random draws for one image of S x S pixels.

    `numpy.random.Generator` may change its methods' streams between versions; the bit generator's
    raw stream may not (NEP 19), so all draws are made from it here.
    """

    def __init__(self, seed: int, index: int, side_px: int) -> None:
        self.side_px = side_px
        self._bits = np.random.PCG64((seed, index))

    def uniform(self, low: float, high: float) -> float:
        """Draw a number from [low, high)."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) / 2**53)

    def chance(self, probability: float) -> bool:
        """Draw True with this probability."""
        return self.uniform(0, 1) < probability

    def pick(self, options: Sequence[T]) -> T:
        """Draw one of the options, all equally likely."""
        return options[int(self.uniform(0, len(options)))]

    def noise(self, cells_x: int, cells_y: int) -> Field:
        """Smooth noise [S, S] float32 in 0..1: random cells, enlarged."""
        count = cells_x * cells_y
        raw = np.asarray(self._bits.random_raw(count // 8 + 1)).astype("<u8")
        cells = raw.view(np.uint8)[:count].reshape(cells_y, cells_x)
        side = (self.side_px, self.side_px)
        smooth = Image.fromarray(cells).resize(side, Image.Resampling.BICUBIC)
        return np.asarray(smooth).astype(np.float32) * np.float32(1 / 255)
