from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.data.drawn_pets import SyntheticSample
from squeeze_cli.data.samples import FileSample, Sample, UnreadableImageError
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.features.prepare import Trunk
from tests.pets import labelled
from tests.preprocessed import preprocessed

PREPROCESSING = Preprocessing((64, 64))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> FrozenBackbone:
    return create_backbone(ModelConfig(backbone="efficientnet-lite0", weights="none"), (64, 64))


def extract(
    backbone: FrozenBackbone, samples: list[Sample], num_workers: int = 0
) -> list[tuple[list[int], np.ndarray, np.ndarray]]:
    trunk = Trunk(backbone, "features", PREPROCESSING, CPU, num_workers=num_workers)
    return list(trunk.extract(samples))


def test_batches_come_in_order_and_are_the_backbones_features(
    backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "inference_batch", 2)
    samples: list[Sample] = [labelled(SyntheticSample(str(i), 3, i, 64)) for i in range(7)]
    batches = extract(backbone, samples, num_workers=1)
    assert [b[0] for b in batches] == [[0, 1], [2, 3], [4, 5], [6]]
    states = np.concatenate([b[1] for b in batches])
    masks = np.concatenate([b[2] for b in batches])
    for i, sample in enumerate(samples):
        image, trimap = sample.load()
        assert trimap is not None
        expected = backbone.network(preprocessed(image, 64)[None])[0]
        torch.testing.assert_close(
            torch.from_numpy(states[i]).permute(2, 0, 1), expected, rtol=1e-4, atol=1e-5
        )
        assert torch.equal(torch.from_numpy(masks[i]), PREPROCESSING.mask(trimap))


def test_an_image_that_cannot_be_read_ends_it_with_its_name(
    backbone: FrozenBackbone, tmp_path: Path
) -> None:
    samples = [SyntheticSample("0", 3, 0, 64), FileSample("gone", tmp_path / "gone.jpg")]
    with pytest.raises(UnreadableImageError, match="gone"):
        extract(backbone, samples)
