"""`--target-bits`: trainings with other weights of the rate, until the codes have these bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from squeeze_cli.config.target import (
    MOST_TRAININGS,
    TOLERANCE,
    first_weight,
    next_weight,
    size_for,
)
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.target import bits_per_vector
from tests.conftest import Squeeze

TINY = (
    "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "24", "--num-workers", "0", "--no-progress", "--epochs", "1",
)  # fmt: skip


@pytest.mark.parametrize("target", [0.4, 1.0, 2.0, 3.0])
@pytest.mark.parametrize(
    "bits", [lambda w: 1.9 * w**-0.12, lambda w: 0.35 + 1.4 * w**-0.3, lambda w: 3.5 / (1 + 9 * w)]
)
def test_search_comes_near_what_can_be_reached(
    bits: Callable[[float], float], target: float
) -> None:
    target = min(max(target, bits(20)), bits(1e-4))
    tried: list[tuple[float, float]] = []
    weight: float | None = first_weight("vq", target)
    while weight is not None:
        tried.append((weight, bits(weight)))
        weight = next_weight(tried, target)
    assert len(tried) <= MOST_TRAININGS
    errors = [abs(reached / target - 1) for _, reached in tried]
    assert errors[-1] <= max(0.12, TOLERANCE)
    assert errors[-1] == min(errors)


def test_search_ends_where_another_weight_changes_nothing() -> None:
    assert next_weight([(0.1, 1.0)], 1.02) is None
    tried = [(0.05, 2.0), (30.0, 1.0)]  # the largest weight there is
    assert next_weight(tried, 0.1) is None


def test_codebooks_have_more_bits_than_are_asked_for() -> None:
    for target in (0.1, 1.0, 1.1, 2.2, 2.3, 3.2, 3.3, 8.0):
        assert 2 ** (1.4 * target) < size_for(target)


def test_run_is_that_of_the_last_training(squeeze: Squeeze, tmp_path: Path) -> None:
    told = squeeze("train", *TINY, "--target-bits", "1.5", "--name", "it").stderr
    tried = [line.split() for line in told.splitlines() if " gives " in line]
    reached = [float(words[3]) for words in tried]
    assert 2 <= len(reached) <= MOST_TRAININGS
    record = RunFolder(tmp_path / "runs" / "it").read_finished()
    assert bits_per_vector(record) == pytest.approx(reached[-1], abs=0.006)
    assert ("not the 1.5 of --target-bits" in told) == (abs(reached[-1] / 1.5 - 1) > TOLERANCE)
    settings = json.loads((tmp_path / "runs" / "it" / "run.json").read_text())["settings"]
    assert f"{settings['quantizer.rate_weight']:.3g}" == tried[-1][1]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["it"]
    squeeze("evaluate", "runs/it", "--quiet")
    # A resumed run goes on with the search.
    record.status = "interrupted"
    RunFolder(tmp_path / "runs" / "it").write_record(record)
    told = squeeze("train", "--resume", "--name", "it", "--no-progress").stderr
    assert f"--rate-weight {tried[-1][1]} gives {tried[-1][3]} bits per vector." in told


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--quantizer", "fsq"), "no effect with --quantizer fsq"),
        (("--rate-weight", "0.1"), "leave one of them out"),
        (("--codebook-size", "4"), "no less than the 2 bits"),
        (("--devices", "2"), "leave --devices out"),
    ],
)
def test_it_is_refused_where_it_means_nothing(
    squeeze: Squeeze, options: tuple[str, ...], named: str
) -> None:
    assert named in squeeze("train", *TINY, "--target-bits", "3", *options, code=2).stderr
