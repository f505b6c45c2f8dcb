"""Where the causal neighbours of a vector are: what is known when it is decoded, row by row.

The codes of a batch live in a padded grid: two rows above, two columns at each side, in which a
code that lies outside of the image is the one that no vector has, `K`. So a neighbour is a fixed
distance in memory away, at the borders too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Rows and columns from a vector to its neighbours: two to the left, and the two rows above.
OFFSETS = (
    (0, -1), (0, -2), (-1, -2), (-1, -1), (-1, 0), (-1, 1), (-1, 2), (-2, -1), (-2, 0), (-2, 1),
)  # fmt: skip
REACH = 2


class PaddedGrid:
    """Codes of B images with a border around them, filled in as they become known.

    Args:
        images: B.
        grid: rows and columns of an image.
        code_sizes: Q sizes; a border's code q is `code_sizes[q]`.
    """

    def __init__(self, images: int, grid: tuple[int, int], code_sizes: Sequence[int]) -> None:
        self._rows, self._columns = grid
        self._width = self._columns + 2 * REACH
        cells = (self._rows + REACH) * self._width
        self._flat = np.empty((images, cells, len(code_sizes)), np.int64)
        self._flat[:] = code_sizes
        self._steps = np.asarray([row * self._width + column for row, column in OFFSETS])
        positions = np.arange(self._rows * self._columns)
        rows, columns = np.divmod(positions, max(1, self._columns))
        self._cells = (rows + REACH) * self._width + columns + REACH

    def fill(self, codes_bnq: NDArray[np.integer]) -> None:
        """Set all N = rows x columns vectors at once."""
        self._flat[:, self._cells] = codes_bnq

    def set(self, position: int, code: int, values_b: NDArray[np.integer]) -> None:
        """Set code `code` of the vector at `position` in all images."""
        self._flat[:, self._cells[position], code] = values_b

    def neighbours(self, position: int) -> NDArray[np.int64]:
        """The neighbours' codes `[B, P, Q]` of one position."""
        return self._flat[:, self._cells[position] + self._steps]

    def all_neighbours(self) -> NDArray[np.int64]:
        """The neighbours' codes `[B, N, P, Q]` of all positions, of codes that are all known."""
        return self._flat[:, self._cells[:, None] + self._steps]
