"""From a photograph and its trimap to the tensors that a backbone and a loss take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from squeeze_cli.config.defaults import IGNORE_INDEX

# The channel statistics that all the pretrained backbones were trained with (RGB, range 0..1).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Raise it with any change that changes a tensor: stored features are keyed on it.
_VERSION = 1


def _trimap_classes() -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    classes = np.clip(np.arange(256) - 1, 0, 2).astype(np.uint8)
    classes[IGNORE_INDEX] = IGNORE_INDEX
    return classes


@dataclass(frozen=True)
class Preprocessing:
    """The deterministic way from stored pixels to tensors; what the feature store keys on.

    Both image and trimap are squeezed to a square, so that every image gives the same number of
    feature vectors. Nothing is drawn at random: each image goes through the backbone once.

    Attributes:
        image_size_px: S, the side of the square in pixels.
    """

    image_size_px: int = 224

    def image(self, image: Image.Image) -> Tensor:
        """RGB image of any size to [3, S, S] float32, ImageNet-normalized."""
        return self.normalize(self.pixels(image)[None])[0].contiguous()

    def pixels(self, image: Image.Image) -> Tensor:
        """RGB image of any size to [S, S, 3] uint8.

        Bilinear with antialiasing: the filter widens with the reduction.
        """
        side_px = self.image_size_px
        square = image.resize((side_px, side_px), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(square.convert("RGB")))

    def normalize(self, pixels: Tensor) -> Tensor:
        """[B, S, S, 3] uint8 to [B, 3, S, S] float32 in channels-last memory, ImageNet-normalized."""
        batch, side_px = len(pixels), pixels.shape[1]
        # One multiplication and one subtraction, rounded the same on every machine; by whole rows
        # of pixels, since three numbers at a time are slow.
        std = torch.tensor(IMAGENET_STD, dtype=torch.float64)
        mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float64)
        scale, shift = ((1 / (255 * std)).float(), (mean / std).float())
        rows = pixels.view(batch, side_px, -1).float()
        rows *= scale.repeat(side_px).to(pixels.device)
        rows -= shift.repeat(side_px).to(pixels.device)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)

    def mask(self, mask: Image.Image) -> Tensor:
        """Trimap of mode 'L' to [S, S] uint8: 0 pet, 1 background, 2 border.

        Nearest neighbour, so that no class is invented. Stored 1, 2, 3 become 0, 1, 2; stray values
        go to the nearest of them (0 to 0, above 3 to 2), and 255 stays IGNORE_INDEX.
        """
        side_px = self.image_size_px
        square = mask.resize((side_px, side_px), Image.Resampling.NEAREST)
        return torch.from_numpy(_trimap_classes()[np.asarray(square)])

    def mask_of(self, mask: Image.Image | None) -> Tensor:
        """`mask`; of an image that has no trimap: IGNORE_INDEX everywhere."""
        if mask is not None:
            return self.mask(mask)
        return torch.full((self.image_size_px, self.image_size_px), IGNORE_INDEX, dtype=torch.uint8)

    def key(self) -> str:
        """Name all that decides the outcome, such as 'square224-bilinear-imagenet-v1'."""
        return f"square{self.image_size_px}-bilinear-imagenet-v{_VERSION}"
