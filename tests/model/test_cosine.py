"""The cosine transform: orthonormal, by its definition, and the same in every batch."""

from __future__ import annotations

import math

import pytest
import torch

from squeeze_cli.quantizers.dct import from_frequencies, to_frequencies

SIDES = [(1, 1), (1, 7), (14, 14), (5, 8)]


@pytest.mark.parametrize("sides", SIDES)
def test_the_inverse_brings_the_maps_back_and_energy_stays(sides: tuple[int, int]) -> None:
    maps = torch.randn(3, 4, *sides)
    coefficients = to_frequencies(maps)
    torch.testing.assert_close(from_frequencies(coefficients), maps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        coefficients.square().sum(dim=(2, 3)), maps.square().sum(dim=(2, 3)), rtol=1e-4, atol=1e-4
    )


def test_a_coefficient_is_that_of_the_definition() -> None:
    h, w, u, v = 5, 8, 2, 3
    maps = torch.randn(1, 1, h, w)
    total = sum(
        float(maps[0, 0, y, x])
        * math.cos(math.pi * (y + 0.5) * u / h)
        * math.cos(math.pi * (x + 0.5) * v / w)
        for y in range(h)
        for x in range(w)
    )
    found = float(to_frequencies(maps)[0, 0, u, v])
    assert found == pytest.approx(total * math.sqrt(2 / h) * math.sqrt(2 / w), abs=1e-4)
    constant = to_frequencies(torch.ones(1, 1, h, w))[0, 0]
    assert float(constant[0, 0]) == pytest.approx(math.sqrt(h * w), rel=1e-5)
    assert float(constant.abs().sum()) == pytest.approx(math.sqrt(h * w), rel=1e-4)


@pytest.mark.parametrize("sides", SIDES)
def test_an_image_has_the_same_bits_in_every_batch(sides: tuple[int, int]) -> None:
    maps = torch.randn(9, 64, *sides)
    whole = from_frequencies(maps)
    for image in range(len(maps)):
        assert torch.equal(from_frequencies(maps[image : image + 1])[0], whole[image])
