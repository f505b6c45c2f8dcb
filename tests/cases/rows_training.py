"""Cases of trainings that go wrong: not finite, collapsed, on images or features without variance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.cases.table import Case

GIVEN = "train --features features.npy --epochs 1 --no-progress --name given"


def same_images(folder: Path) -> None:
    """Twelve copies of one image of one colour, with the masks of `images/`."""
    for file in (folder / "images").iterdir():
        Image.new("RGB", (47, 31), (90, 120, 60)).save(file)


def given(array: np.ndarray) -> Callable[[Path], object]:
    """Features that somebody else computed."""
    return lambda folder: np.save(folder / "features.npy", array.astype(np.float32))


def failed(name: str, *reasons: str) -> Callable[[Path], object]:
    """A check of the record of a training that failed."""

    def check(folder: Path) -> None:
        record = json.loads((folder / "runs" / name / "run.json").read_text())
        assert record["status"] == "failed"
        assert all(reason in record["error"] for reason in reasons), record["error"]

    return check


def warned(name: str, reason: str) -> Callable[[Path], object]:
    """A check of the record of a training that came to its end with a warning."""

    def check(folder: Path) -> None:
        record = json.loads((folder / "runs" / name / "run.json").read_text())
        assert record["status"] == "finished"
        assert any(reason in warning for warning in record["warnings"]), record["warnings"]

    return check


def valid_json(folder: Path) -> None:
    """A check that the record has no NaN and no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for file in folder.glob("runs/*/run.json"):
        json.loads(file.read_text(), parse_constant=refuse)


numbers = np.random.default_rng(0)
CONSTANT_CHANNELS = numbers.normal(size=(12, 3, 2, 16)) * ([0.0] * 8 + [1.0] * 8)
QUANTIZERS = (
    "vq --codebook-size 16", "rvq --codebook-size 16", "pq --codebook-size 16", "fsq",
    "lfq --codebook-size 16",
)  # fmt: skip

ROWS = (
    Case(
        "a loss that is not finite",
        "train {T} --quantizer vq --commitment-weight 1e38 --vq-loss-weight 1e38 --images images "
        "--masks masks --name d",
        1,
        ("The training has diverged: the loss is not finite at step 1 (epoch 1 of 1).", "--lr"),
        uses=("images", "masks"),
        check=failed("d", "not finite at step 1"),
    ),
    Case(
        "a loss that grows tenfold",
        "train {T} --lr 9 --epochs 4 --images images --masks masks --quantizer fsq --codes plain "
        "--name g",
        0,
        ("The training loss grew from", "lower --lr"),
        uses=("images", "masks"),
        check=warned("g", "The training loss grew from"),
    ),
    Case(
        "images of one colour that are all the same",
        "train {T} --images images --masks masks --name c",
        uses=("images", "masks"),
        make=same_images,
        check=valid_json,
    ),
    Case(
        "features whose variance is no float32",
        f"{GIVEN} --bottleneck-dim 8",
        1,
        ("features are too large", "scale them"),
        make=given(1e30 * numbers.normal(size=(12, 3, 2, 16))),
    ),
    Case(
        "features of 1e-30",
        f"{GIVEN} --bottleneck-dim 8",
        make=given(1e-30 * numbers.normal(size=(12, 3, 2, 16))),
        check=valid_json,
    ),
    *(
        Case(
            f"{quantizer.split()[0]}: features that are all zero",
            f"{GIVEN} --quantizer {quantizer} --bottleneck-dim 8",
            0,
            ("Nearly all vectors have the same code",),
            make=given(np.zeros((12, 3, 2, 16))),
            check=warned("given", "Nearly all vectors have the same code"),
        )
        for quantizer in QUANTIZERS
    ),
    *(
        Case(
            f"{quantizer.split()[0]}: {name}",
            f"{GIVEN} --quantizer {quantizer} --bottleneck-dim 8",
            silent_on=("duplicates",),
            make=given(features),
            check=valid_json,
        )
        for quantizer in (*QUANTIZERS, "dct")
        for name, features in {
            "features of constant channels": CONSTANT_CHANNELS,
            "fewer vectors than codes": numbers.normal(size=(8, 16)),
        }.items()
    ),
)  # fmt: skip
