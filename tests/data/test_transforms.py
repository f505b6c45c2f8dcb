from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, Statistics
from tests.pets import noise_image, trimap
from tests.preprocessed import preprocessed


def test_image_is_a_normalized_square_float_tensor():
    tensor = preprocessed(noise_image(97, 41), 64)
    assert tensor.shape == (3, 64, 64)
    assert tensor.dtype == torch.float32
    assert tensor[None].is_contiguous(memory_format=torch.channels_last)


def test_image_agrees_with_torchvision_where_nothing_is_resized():
    image = noise_image(32, 32)
    scaled = functional.to_dtype(functional.pil_to_tensor(image), torch.float32, scale=True)
    expected = functional.normalize(scaled, IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(preprocessed(image, 32), expected)


def test_reduction_is_antialiased_and_axes_are_not_swapped():
    stripes = np.zeros((40, 80, 3), dtype=np.uint8)
    stripes[:, ::2] = 255  # alternate columns average to grey
    stripes[20:] = 0
    tensor = preprocessed(Image.fromarray(stripes), 20)
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    np.testing.assert_allclose(tensor[:, 3, 10], (0.5 - mean) / std, atol=0.05)
    np.testing.assert_allclose(tensor[:, 16, 10], -mean / std, atol=0.01)


def test_mask_resize_invents_no_class_and_keeps_place():
    mask = Preprocessing((32, 32)).mask(trimap(97, 41))
    assert (mask.shape, mask.dtype) == ((32, 32), torch.uint8)
    assert set(mask.unique().tolist()) == {1, 2, 3}
    assert mask[16, 16] == 1
    assert mask[0, 0] == 2


RED, GREEN, BLUE = ([255, 0, 0], [0, 255, 0], [0, 0, 255])


def striped(height: int, width: int) -> tuple[Image.Image, Image.Image]:
    """An image of red, green and blue stripes, a third of its longer side each, and the index of each."""
    longer = np.repeat([0, 1, 2], max(height, width) // 3)
    stripes = np.broadcast_to(longer if width > height else longer[:, None], (height, width))
    pixels = np.array([RED, GREEN, BLUE], np.uint8)[stripes]
    return Image.fromarray(pixels), Image.fromarray(stripes.astype(np.uint8))


def colours_of(preprocessing: Preprocessing, image: Image.Image) -> np.ndarray:
    """Class of the nearest of the three colours, or IGNORE_INDEX where it is the mean colour."""
    pixels = preprocessing.pixels(image).numpy().astype(int)
    mean = np.abs(pixels - np.round(255 * np.array(IMAGENET_MEAN))).max(axis=-1) < 1
    return np.where(mean, IGNORE_INDEX, pixels.argmax(axis=-1))


@pytest.mark.parametrize("stored", [(30, 90), (90, 30), (60, 60), (1, 300)])
@pytest.mark.parametrize("size", [(48, 48), (32, 64), (64, 32)])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_image_and_mask_are_fitted_in_the_same_way(fit, size, stored):
    preprocessing = Preprocessing(size, fit)
    image, mask = striped(*stored)
    labels = preprocessing.mask(mask).numpy()
    seen = colours_of(preprocessing, image)
    assert labels.shape == seen.shape == size
    assert (labels == seen).mean() > 0.9  # but where two stripes are mixed
    assert ((labels == IGNORE_INDEX) == (seen == IGNORE_INDEX)).all()


def test_crop_is_the_centre_and_pad_is_right_and_below():
    wide, mask = striped(30, 90)
    assert (Preprocessing((32, 32), "crop").mask(mask) == 1).all()
    padded = Preprocessing((32, 64), "pad").mask(mask)
    height = round(64 / 90 * 30)
    assert (padded[height:] == IGNORE_INDEX).all()
    assert (padded[:height] != IGNORE_INDEX).all()
    below = Preprocessing((64, 32), "pad").mask(mask.rotate(90, expand=True))
    assert (below[:, :height] != IGNORE_INDEX).all()
    assert (below[:, height:] == IGNORE_INDEX).all()
    squashed = Preprocessing((30, 60)).mask(mask)
    assert squashed[0].tolist() == [0] * 20 + [1] * 20 + [2] * 20
    pixels = Preprocessing((32, 64), "pad").pixels(wide)
    normalized = Preprocessing((32, 64), "pad").normalize(pixels[None])
    assert normalized[0, :, height:].abs().max() < 0.01


def test_key_is_pinned_and_names_the_size():
    assert Preprocessing().key() == "square224-bilinear-imagenet-v1"
    sizes = [(96, 96), (96, 64), (64, 96), (224, 224)]
    fits = ("squash", "crop", "pad")
    assert len({Preprocessing(size, fit).key() for size in sizes for fit in fits}) == 12


def test_statistics_of_a_backbone_decide_pixels_and_key():
    image = noise_image(64, 48)
    given = Statistics((0.1, 0.2, 0.3), (0.5, 0.25, 0.125), "bicubic")
    preprocessing = Preprocessing((32, 32), statistics=given)
    pixels = preprocessing.pixels(image)
    resized = image.resize((32, 32), Image.Resampling.BICUBIC)
    assert torch.equal(pixels, functional.pil_to_tensor(resized).permute(1, 2, 0))
    assert not torch.equal(pixels, Preprocessing((32, 32)).pixels(image))
    scaled = functional.to_dtype(functional.pil_to_tensor(resized), torch.float32, scale=True)
    expected = functional.normalize(scaled, given.mean, given.std)
    torch.testing.assert_close(preprocessing.normalize(pixels[None])[0], expected)
    others = (
        Statistics(),
        Statistics(interpolation="bicubic"),
        Statistics((0.1, 0.2, 0.3), (0.5, 0.25, 0.125)),
        Statistics((0.1, 0.2, 0.3), (0.5, 0.25, 0.126), "bicubic"),
        Statistics((0.1, 0.2, 0.31), (0.5, 0.25, 0.125), "bicubic"),
    )
    keys = {Preprocessing((32, 32), statistics=each).key() for each in (given, *others)}
    assert len(keys) == 6


@pytest.mark.parametrize("size", [(224, 224), (301, 199)])
def test_preprocessing_is_deterministic(size):
    image = noise_image(*size)
    assert torch.equal(preprocessed(image, 224), preprocessed(image, 224))
