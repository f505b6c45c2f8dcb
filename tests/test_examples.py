"""Every experiment of examples.yaml trains, for one step on few images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, Squeeze

EXAMPLES = yaml.safe_load((ROOT / "examples.yaml").read_text())["experiments"]
ONE_STEP = (
    "--epochs", "1", "--max-batches", "1", "--image-size", "64", "--num-workers", "0",
    "--no-progress", "--name", "it",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_trains_one_step(squeeze: Squeeze, tiny_pets: Path, name: str) -> None:
    example = EXAMPLES[name]
    arguments = ["--config", str(ROOT / "examples.yaml"), "--experiment", name, *ONE_STEP]
    if example.get("data", {}).get("dataset") == "synthetic":
        arguments += ["--subset-size", "8"]
    else:
        arguments += ["--data-dir", str(tiny_pets)]
    if example["model"]["backbone"] != "efficientnet-lite0":
        arguments += ["--weights", "none"]  # the published ones would be downloaded
    squeeze("baseline" if example.get("kind") == "baseline" else "train", *arguments)
    record = json.loads((tiny_pets / "runs" / "it" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["epochs"]["done"] == 1


def test_there_is_an_example_of_everything() -> None:
    from squeeze_cli.config.parts import BACKBONES, LOSSES, QUANTIZERS

    trained = [e for e in EXAMPLES.values() if e.get("kind") != "baseline"]
    assert {e["quantizer"]["type"] for e in trained} == set(QUANTIZERS)
    assert {e["model"].get("loss_type", "ce") for e in trained} == set(LOSSES)
    used = {BACKBONES[e["model"]["backbone"]].target for e in trained}
    assert used == {entry.target for entry in BACKBONES.values()}
    assert any(e["model"].get("add_adapter") for e in trained)
    assert any(e.get("kind") == "baseline" for e in EXAMPLES.values())
    assert "quickstart" in EXAMPLES
