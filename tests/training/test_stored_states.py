"""What a second experiment on the same images leaves out, and what it must not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch import Tensor

from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.config.resolve import resolve_defaults, with_values, write_config
from squeeze_cli.config.schema import DataConfig, ExperimentConfig, ModelConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.encoded import EncodedImage
from squeeze_cli.data.samples import FileSample
from squeeze_cli.features.prepare import Trunk
from squeeze_cli.training.experiment import Experiment, set_up
from tests.conftest import ROOT

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


OPENED = """
import json, sys
from collections import Counter

opened = Counter()
sys.addaudithook(lambda name, args: opened.update([str(args[0])]) if name == "open" else None)
from squeeze_cli.config.resolve import load_experiment
from squeeze_cli.console import Reporter
from squeeze_cli.training.experiment import set_up
from pathlib import Path

experiment = set_up(load_experiment(Path(sys.argv[1])), Reporter(quiet=True))
experiment.data.setup()
experiment.splits.digest()
for split in ("train", "val", "test"):
    for batch in experiment.data.batches(split):
        pass
print(json.dumps({path: count for path, count in opened.items() if "oxford-iiit-pet/" in path}))
"""


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.slow
def test_each_file_is_read_once_before_and_in_all_epochs(
    config: ExperimentConfig, tmp_path: Path, stored: bool
) -> None:
    if not stored:
        config = with_values(config, {"data.cache_dir": str(tmp_path / "empty")})
    write_config(tmp_path / "c.yaml", config)
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(tmp_path / "c.yaml")],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    opened = json.loads(done.stdout)
    files = [path for path in opened if path.endswith((".jpg", ".png"))]
    assert len(files) == 28
    assert {opened[path] for path in files} == {1}
