"""What a second experiment on the same images leaves out, and what it must not."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.config.resolve import resolve_defaults, with_values
from squeeze_cli.config.schema import DataConfig, ExperimentConfig, ModelConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.encoded import EncodedImage
from squeeze_cli.data.samples import FileSample
from squeeze_cli.features.prepare import Trunk
from squeeze_cli.training.experiment import Experiment, set_up

QUIET = Reporter(quiet=True)


@pytest.fixture
def config(tiny_pets: Path, tmp_path: Path) -> ExperimentConfig:
    """Photographs whose features are in the store."""
    config = resolve_defaults(
        ExperimentConfig(
            model=ModelConfig(backbone="efficientnet-lite0"),
            data=DataConfig(
                data_dir=str(tiny_pets),
                image_size=64,
                num_workers=0,
                cache_dir=str(tmp_path / "cache"),
            ),
        )
    )
    filled(config)
    return config


def filled(config: ExperimentConfig) -> Experiment:
    """The experiment, with its data opened."""
    experiment = set_up(config, QUIET)
    experiment.data.setup()
    return experiment


def test_stored_images_are_not_decoded_and_the_backbone_is_not_built(
    config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(EncodedImage, "check", refuse)
    monkeypatch.setattr(EncodedImage, "decode", refuse)
    monkeypatch.setattr(FrozenBackbone, "network", property(refuse))
    experiment = filled(config)
    assert len(experiment.splits.train) == 8
    assert len(experiment.data.batch("test", [0, 3])[0]) == 2


def test_a_photograph_that_broke_meanwhile_is_left_out(
    config: ExperimentConfig, tiny_pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = filled(config).splits
    broken = splits.test[0]
    assert isinstance(broken, FileSample)
    broken.image_path.write_bytes(broken.image_path.read_bytes()[:200])
    again = filled(config).splits
    assert again.digest() != splits.digest()
    assert again.test == splits.test[1:]
    assert [name for name, _ in again.skipped] == [broken.name]
    assert f"Skipped {broken.name}" in capsys.readouterr().err


def test_other_weights_or_sizes_meet_no_stored_state(
    config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[int] = []
    original = Trunk.states

    def watched(trunk: Trunk, pixels: Tensor) -> Tensor:
        passed.append(len(pixels))
        return original(trunk, pixels)

    monkeypatch.setattr(Trunk, "states", watched)
    splits = filled(config).splits
    samples = [*splits.train, *splits.val, *splits.test]
    images = len({sample.known().digest for sample in samples})
    assert images < len(samples) == 14  # some photographs are the same: they pass once
    assert passed == []
    others = (
        {"model.weights": "none"}, {"data.image_size": 96}, {"data.image_size": "64x96"},
        {"data.fit": "pad"},
    )  # fmt: skip
    for number, values in enumerate(others, start=1):
        filled(with_values(config, values))
        assert sum(passed) == number * images


@pytest.mark.parametrize("stored", [False, True])
def test_each_file_is_read_once_before_and_in_all_epochs(
    config: ExperimentConfig, tmp_path: Path, stored: bool
) -> None:
    if not stored:
        config = with_values(config, {"data.cache_dir": str(tmp_path / "empty")})
    opened: Counter[str] = Counter()

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if hearing and event == "open" and str(arguments[0]).endswith((".jpg", ".png")):
            opened[str(arguments[0])] += 1

    hearing = True
    sys.addaudithook(hear)
    try:
        experiment = filled(config)
        experiment.splits.digest()
        for split in ("train", "val", "test"):
            for _ in experiment.data.batches(split):
                pass
    finally:
        hearing = False
    assert len(opened) == 28
    assert set(opened.values()) == {1}
