"""What a picture of predictions shows of one image; here, for `pictures` imports matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PictureColumn:
    """One image and what is said of it.

    Attributes:
        name: the image's.
        pixels: `[H, W, 3]` uint8.
        masks: a mask `[H, W]` of class indices for each further row.
        notes: what stands below each mask, such as its IoU; may be empty.
    """

    name: str
    pixels: NDArray[np.uint8]
    masks: Sequence[NDArray[np.uint8]]
    notes: Sequence[str]
