from __future__ import annotations

import threading
import time

import pytest
import torch

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.drawn_pets import SyntheticSample
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.features import prepare
from squeeze_cli.features.prepare import Ranks, Trunk, prepare_states
from squeeze_cli.features.store import FeatureStore, StoreKey
from tests.preprocessed import preprocessed

PREPROCESSING = Preprocessing((64, 64))
CPU = torch.device("cpu")
KEY = StoreKey("b", "w", "features", "p", "32")


@pytest.fixture(scope="module")
def backbone() -> FrozenBackbone:
    return create_backbone(ModelConfig(backbone="efficientnet-lite0", weights="none"), (64, 64))


def test_room_is_needed_for_the_states_that_are_missing(
    backbone: FrozenBackbone, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[float] = []
    monkeypatch.setattr(prepare, "check_free_space", lambda _, size: needed.append(size))
    trunk = Trunk(backbone, "features", PREPROCESSING, CPU)
    state_bytes = 4 * 4 * 320 * 4

    def fill(first: int, last: int, copies: int = 1) -> list[float]:
        needed.clear()
        samples: list[Sample] = [
            SyntheticSample(f"{i} {copy}", 3, i, 64)
            for i in range(first, last)
            for copy in range(copies)
        ]
        store = FeatureStore(tmp_path, KEY)
        prepare_states(samples, trunk, store, Reporter(quiet=True), Ranks())
        return [size / state_bytes for size in needed]

    assert fill(0, 3, copies=4) == [3]
    assert fill(2, 9) == [6]  # of 7, one is stored, and two that are stored are others
    assert fill(0, 9) == []
    monkeypatch.setattr(prepare, "SHARD_BYTES", 1)
    monkeypatch.setattr(backbone, "inference_batch", 2)
    # Until they are read, nine of the rest could be those that are stored.
    assert fill(9, 30) == [12, 10, 8, 6, 4, 2, 2, 2, 2, 2, 1]


@pytest.mark.parametrize("threads", [0, 3])
def test_states_are_the_backbones_features_of_each_image_in_order(
    backbone: FrozenBackbone, tmp_path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(backbone, "inference_batch", 2)
    samples: list[Sample] = [SyntheticSample(str(i), 3, i, 64) for i in range(7)]
    trunk = Trunk(backbone, "features", PREPROCESSING, CPU, num_workers=threads)
    looks, states = prepare_states(
        samples, trunk, FeatureStore(tmp_path, KEY), Reporter(quiet=True), Ranks()
    )
    assert [look.sample.name for look in looks] == [str(i) for i in range(7)]
    for look, sample in zip(looks, samples, strict=True):
        image = sample.read().decode()
        expected = backbone.network(preprocessed(image, 64)[None])[0]
        state = torch.from_numpy(states[look.sample.known().digest]).float()
        torch.testing.assert_close(state.permute(2, 0, 1), expected, rtol=1e-3, atol=1e-3)
        assert look.sample.known().size_px == (64, 64)


def test_few_images_wait_decoded_for_a_slow_backbone(
    backbone: FrozenBackbone, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, lead = threading.Semaphore(0), []
    original = Preprocessing.pixels

    def counted(preprocessing: Preprocessing, image):
        decoded.release()
        return original(preprocessing, image)

    taken = 0

    def slow(trunk: Trunk, pixels: torch.Tensor) -> torch.Tensor:
        nonlocal taken
        taken += len(pixels)
        time.sleep(0.05)  # the others decode as far as they may
        lead.append(decoded._value - taken)
        return torch.zeros(len(pixels), 4, 2, 2)

    monkeypatch.setattr(prepare, "AHEAD", 4)
    monkeypatch.setattr(Preprocessing, "pixels", counted)
    monkeypatch.setattr(Trunk, "states", slow)
    samples: list[Sample] = [SyntheticSample(str(i), 3, i, 32) for i in range(40)]
    trunk = Trunk(backbone, "features", Preprocessing((32, 32)), CPU, num_workers=2)
    prepare_states(samples, trunk, FeatureStore(tmp_path, KEY), Reporter(quiet=True), Ranks())
    assert 0 < max(lead) <= 5
