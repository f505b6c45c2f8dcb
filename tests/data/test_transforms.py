from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from squeeze_cli.data.transforms import (
    IGNORE_INDEX,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    Statistics,
)
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


def test_mask_classes_are_mapped_clamped_and_ignored():
    stored = Image.fromarray(np.array([[0, 1, 2, 3], [4, 9, 254, 255]], dtype=np.uint8))
    mask = Preprocessing(4).mask(stored)
    assert mask.dtype == torch.uint8
    assert mask[0].tolist() == [0, 0, 1, 2]
    assert mask[3].tolist() == [2, 2, 2, IGNORE_INDEX]


def test_mask_resize_invents_no_class_and_keeps_place():
    mask = Preprocessing(32).mask(trimap(97, 41))
    assert mask.shape == (32, 32)
    assert set(mask.unique().tolist()) == {0, 1, 2}
    assert mask[16, 16] == 0
    assert mask[0, 0] == 1


def test_no_mask_is_all_ignored():
    assert Preprocessing(8).mask(None).unique().tolist() == [IGNORE_INDEX]


def test_key_is_pinned_and_names_the_size():
    assert Preprocessing().key() == "square224-bilinear-imagenet-v1"
    assert Preprocessing(96).key() != Preprocessing(224).key()


def test_statistics_of_a_backbone_decide_pixels_and_key():
    image = noise_image(64, 48)
    given = Statistics((0.1, 0.2, 0.3), (0.5, 0.25, 0.125), "bicubic")
    preprocessing = Preprocessing(32, given)
    pixels = preprocessing.pixels(image)
    resized = image.resize((32, 32), Image.Resampling.BICUBIC)
    assert torch.equal(pixels, functional.pil_to_tensor(resized).permute(1, 2, 0))
    assert not torch.equal(pixels, Preprocessing(32).pixels(image))
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
    keys = {Preprocessing(32, each).key() for each in (given, *others)}
    assert len(keys) == 6


@pytest.mark.parametrize("size", [(224, 224), (301, 199)])
def test_preprocessing_is_deterministic(size):
    image = noise_image(*size)
    assert torch.equal(preprocessed(image, 224), preprocessed(image, 224))
