"""`--target-bits`: trainings with other weights of the rate, until the codes have these bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from squeeze_cli.api import open_run
from squeeze_cli.config.resolve import resolve_config
from squeeze_cli.config.schema import ExperimentConfig, QuantizerConfig
from squeeze_cli.config.target import (
    MOST_TRAININGS,
    TOLERANCE,
    dial_of,
    first_step,
    first_weight,
    next_value,
    size_for,
)
from squeeze_cli.errors import UsageError
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.fit import bits_per_vector
from tests.conftest import Squeeze

WEIGHT = dial_of("vq")
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
        weight = next_value(WEIGHT, tried, target)
    assert len(tried) <= MOST_TRAININGS
    errors = [abs(reached / target - 1) for _, reached in tried]
    assert errors[-1] <= max(0.12, TOLERANCE)
    assert errors[-1] == min(errors)


def test_search_ends_where_another_weight_changes_nothing() -> None:
    assert next_value(WEIGHT, [(0.1, 1.0)], 1.02) is None
    tried = [(0.05, 2.0), (30.0, 1.0)]  # the largest weight there is
    assert next_value(WEIGHT, tried, 0.1) is None


def test_codebooks_have_more_bits_than_are_asked_for() -> None:
    for target in (0.1, 1.0, 1.1, 2.2, 2.3, 3.2, 3.3, 8.0):
        assert 2 ** (1.4 * target) < size_for(target)


@pytest.mark.parametrize("target", [0.2, 2.0, 20.0])
@pytest.mark.parametrize(
    "bits", [lambda d: 2 / d**1.2, lambda d: 4 / (0.1 + d), lambda d: 2 / d**1.6]
)
def test_search_for_a_step_comes_near_its_target(
    bits: Callable[[float], float], target: float
) -> None:
    tried: list[tuple[float, float]] = []
    step: float | None = first_step(target)
    while step is not None:
        tried.append((step, bits(step)))
        step = next_value(dial_of("dct"), tried, target)
    assert abs(tried[-1][1] / target - 1) <= 0.12


def test_the_weight_of_the_rate_follows_the_step() -> None:
    for codes, step, weight in (("faithful", 0.85, 0.05), ("faithful", 0.425, 0.0125), ("task", 1.7, 0.2),
                                ("plain", 0.85, 0)):  # fmt: skip
        given = {"quantizer.type": "dct", "quantizer.codes": codes}
        given |= {"quantizer.step_size": step} if step == 0.425 else {}
        found = resolve_config("quantized", given).quantizer
        assert (found.step_size, found.rate_weight) == (step, pytest.approx(weight))


def test_without_a_weight_of_the_rate_only_dct_has_a_target(squeeze: Squeeze) -> None:
    config = ExperimentConfig(quantizer=QuantizerConfig(rate_weight=0.0, target_bits=2.0))
    with pytest.raises(UsageError, match="needs a weight of the rate"):
        resolve_config("quantized", {}, config)
    told = squeeze("train", *TINY, "--quantizer", "dct", "--codes", "plain", "--target-bits", "20",
                   "--name", "it").stderr  # fmt: skip
    assert "--step-size" in told
    record = open_run(Path("runs/it"), device="cpu").record
    assert record.settings["quantizer.rate_weight"] == 0


def test_the_largest_target_is_one_of_dct() -> None:
    values = {"quantizer.type": "dct", "quantizer.target_bits": 64.0}
    assert resolve_config("quantized", values).quantizer.target_bits == 64
    for width, fits in ((7, False), (8, False), (9, True)):
        narrow = values | {"quantizer.bottleneck_dim": width}
        with (
            nullcontext() if fits else pytest.raises(UsageError, match="a larger --bottleneck-dim")
        ):
            resolve_config("quantized", narrow)


def test_a_run_of_dct_comes_near_its_target(squeeze: Squeeze, tmp_path: Path) -> None:
    told = squeeze(
        "train", *TINY, "--quantizer", "dct", "--target-bits", "8", "--name", "it"
    ).stderr
    record = RunFolder(tmp_path / "runs" / "it").read_finished()
    assert "--step-size" in told
    assert bits_per_vector(record) == pytest.approx(8, rel=0.2)


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
        (("--codebook-size", "4"), "not below the 2 bits"),
        (
            ("--quantizer", "dct", "--bottleneck-dim", "8", "--target-bits", "64"),
            "not below the 63.95 bits of codes that are not coded: choose a smaller one, or a larger "
            "--bottleneck-dim",
        ),
        (("--devices", "2"), "leave --devices out"),
    ],
)
def test_it_is_refused_where_it_means_nothing(
    squeeze: Squeeze, options: tuple[str, ...], named: str
) -> None:
    assert named in squeeze("train", *TINY, "--target-bits", "3", *options, code=2).stderr
