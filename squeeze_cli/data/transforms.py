"""Preprocessing: resizing and normalization of images for a backbone."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.config.fields import Size
from squeeze_cli.config.schema import Fit

# Channel statistics of ImageNet (RGB in 0..1), with which most pretrained backbones were trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Raise the version with any change of a tensor: it is a part of the key of stored features.
_VERSION = 1


@dataclass(frozen=True)
class Statistics:
    """Statistics and interpolation of the images in a backbone's own training.

    Mean and standard deviation are of R, G and B in 0..1; `interpolation` is the name of a filter of
    Pillow in lower case.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"

    def key(self) -> str:
        """Return a text that names the statistics, such as 'bilinear-imagenet'."""
        if (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD):
            return f"{self.interpolation}-imagenet"
        return "-".join([self.interpolation, *map(str, self.mean + self.std)])


@dataclass(frozen=True)
class Preprocessing:
    """Conversion of images and masks to tensors of height and width `size_px`.

    All images have the same number of feature vectors. There is no random augmentation, because each
    image passes the backbone once.

    Attributes:
        size_px: Height H and width W.
        fit: How an image of other proportions becomes H x W. `squash` changes its proportions, `crop`
            keeps its centre, and `pad` adds pixels to its right or below.
    """

    size_px: Size = (224, 224)
    fit: Fit = "squash"
    statistics: Statistics = Statistics()

    def pixels(self, image: Image.Image) -> Tensor:
        """Resize an RGB image of any size to [H, W, 3] uint8, with antialiasing.

        Padding has the mean colour, which becomes 0 when it is normalized.
        """
        mean = tuple(round(255 * value) for value in self.statistics.mean)
        interpolation = Image.Resampling[self.statistics.interpolation.upper()]
        fitted = self._fitted(image, interpolation, mean)
        return torch.from_numpy(np.array(fitted.convert("RGB")))

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize [B, H, W, 3] uint8 to [B, 3, H, W] float32, channels last in memory."""
        # One multiplication and one subtraction are rounded the same on every machine. Whole rows
        # of pixels at a time are faster than three channels.
        mean, std = torch.tensor((self.statistics.mean, self.statistics.std), dtype=torch.float64)
        rows = pixels.flatten(2).float()
        rows *= (1 / (255 * std)).float().repeat(pixels.shape[2]).to(pixels.device)
        rows -= (mean / std).float().repeat(pixels.shape[2]).to(pixels.device)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)

    def mask(self, mask: Image.Image) -> Tensor:
        """Resize class indices of mode 'L' to [H, W] uint8.

        Nearest-neighbour interpolation adds no classes. Padding is IGNORE_INDEX.
        """
        fitted = self._fitted(mask, Image.Resampling.NEAREST, (IGNORE_INDEX,))
        return torch.from_numpy(np.array(fitted))

    def _fitted(
        self, image: Image.Image, resampling: Image.Resampling, padding: tuple[int, ...]
    ) -> Image.Image:
        """Return an image or a mask of H x W by `fit`."""
        height, width = self.size_px
        if self.fit == "crop":
            return ImageOps.fit(image, (width, height), resampling)
        if self.fit == "squash":
            return image.resize((width, height), resampling)
        scale = min(height / image.height, width / image.width)
        inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        padded = Image.new(image.mode, (width, height), padding)
        padded.paste(image.resize(inner, resampling))
        return padded

    def key(self) -> str:
        """Return a text that names these settings, such as 'square224-bilinear-imagenet-v1'."""
        height, width = self.size_px
        size = f"{self.fit}{height}x{width}"
        if self.fit == "squash" and height == width:
            size = f"square{height}"
        return f"{size}-{self.statistics.key()}-v{_VERSION}"


def counted_vectors(labels: Tensor, grid: tuple[int, int] | torch.Size) -> Tensor:
    """Return which vectors of a grid are not ignored, `[B, h, w]` bool, by label planes `[B, H, W]`.

    A vector is ignored if all labels in its cell are `IGNORE_INDEX`, as in padding.
    """
    known = (labels != IGNORE_INDEX).float()
    return F.adaptive_max_pool2d(known[:, None], tuple(grid))[:, 0] > 0
