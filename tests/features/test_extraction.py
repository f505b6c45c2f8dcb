from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from squeeze_cli.backbones import create_backbone
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.data.drawn_pets import SyntheticSample
from squeeze_cli.data.samples import FileSample, Sample, UnreadableImageError
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.features import extraction
from squeeze_cli.features.extraction import extract_states

PREPROCESSING = Preprocessing(64)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> object:
    return create_backbone(ModelConfig(backbone="efficientnet-lite0", weights="none"), 64).network


def extract(backbone: object, samples: list[Sample], num_workers: int = 0) -> list[object]:
    return list(
        extract_states(
            backbone, samples, PREPROCESSING,  # type: ignore[arg-type]
            layer="features", device=CPU, num_workers=num_workers,
        )
    )  # fmt: skip


def test_batches_come_in_order_and_are_the_backbones_features(
    backbone: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("squeeze_cli.backbones.base.Backbone.inference_batch", 2)
    samples: list[Sample] = [SyntheticSample(str(i), 3, i, 64) for i in range(7)]
    batches = extract(backbone, samples, num_workers=1)
    assert [b[0] for b in batches] == [[0, 1], [2, 3], [4, 5], [6]]  # type: ignore[index]
    states = np.concatenate([b[1] for b in batches])  # type: ignore[index]
    masks = np.concatenate([b[2] for b in batches])  # type: ignore[index]
    for i, sample in enumerate(samples):
        image, trimap = sample.load()
        assert trimap is not None
        expected = backbone(PREPROCESSING.image(image)[None])[0]  # type: ignore[operator]
        torch.testing.assert_close(
            torch.from_numpy(states[i]).permute(2, 0, 1), expected, rtol=1e-4, atol=1e-5
        )
        assert torch.equal(torch.from_numpy(masks[i]), PREPROCESSING.mask(trimap))


def test_threads_get_a_core_each_and_give_them_back(
    backbone: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen: set[tuple[int, int]] = set()
    original = extraction.run_trunk

    def watched(*arguments: object) -> torch.Tensor:
        seen.add((threading.get_ident(), torch.get_num_threads()))
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(extraction, "run_trunk", watched)
    monkeypatch.setattr("squeeze_cli.backbones.base.Backbone.inference_batch", 1)
    try:
        extract(backbone, [SyntheticSample(str(i), 3, i, 64) for i in range(6)])
        assert {cores for _, cores in seen} == {1}
        assert threading.get_ident() not in {thread for thread, _ in seen}
        assert torch.get_num_threads() == 2
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [2]
    finally:
        torch.set_num_threads(before)


def test_an_image_that_cannot_be_read_ends_it_with_its_name(
    backbone: object, tmp_path: Path
) -> None:
    samples = [SyntheticSample("0", 3, 0, 64), FileSample("gone", tmp_path / "gone.jpg")]
    with pytest.raises(UnreadableImageError, match="gone"):
        extract(backbone, samples)  # type: ignore[arg-type]
