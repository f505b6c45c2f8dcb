"""An image as a backbone takes it."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from squeeze_cli.data.transforms import Preprocessing


def preprocessed(image: Image.Image, side_px: int) -> Tensor:
    """Return `[3, S, S]` float32, as the batches of a data module hold it."""
    preprocessing = Preprocessing((side_px, side_px))
    return preprocessing.normalize(preprocessing.pixels(image)[None])[0]
