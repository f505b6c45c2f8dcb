"""Two processes that run one command write the same bytes, whether features are stored or not yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cases.table import TINY_TRAINING
from tests.conftest import Squeeze


def record(run: Path) -> dict[str, Any]:
    """The record, but for its times."""
    content: dict[str, Any] = json.loads((run / "run.json").read_text())
    return {k: v for k, v in content.items() if k not in ("created", "updated", "seconds")}


@pytest.mark.parametrize("quantizer", ["vq", "fsq"])
@pytest.mark.slow
def test_a_cold_and_a_warm_store_give_the_same_bytes(
    squeeze: Squeeze, squeeze_executable: Squeeze, tiny_pets: Path, quantizer: str
) -> None:
    runs = []
    for name, workers, run in (("cold", "0", squeeze), ("warm", "2", squeeze_executable)):
        run(
            "train", *TINY_TRAINING.split(), "--quantizer", quantizer, "--data-dir", str(tiny_pets),
            "--cache-dir", "store", "--output-dir", name, "--name", "run",
            "--num-workers", workers,
        )  # fmt: skip
        runs.append(tiny_pets / name / "run")
    cold, warm = (record(run) for run in runs)
    assert cold == warm
    files = ["prior.safetensors"]
    files += [f"codes/{name}" for name in ("val.sqz", "test.sqz", "first_batch.safetensors")]
    for file in files:
        first, second = ((run / file).read_bytes() for run in runs)
        assert first == second, file
