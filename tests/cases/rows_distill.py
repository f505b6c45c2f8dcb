"""Cases of `--distill`: a teacher of other classes, other images, or with files that are not its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from tests.cases.stock import squeeze
from tests.cases.table import TINY_TRAINING, Case
from tests.data.test_voc import write_layout

PETS = "train {T} --quantizer vq --data-dir pets --name it"
USES = ("pets", "runs/base")
FOLDER = "{T} --images images --masks masks"
# Without --subset-size, by which the seed chooses the test images too.
ALL_PETS = "--model efficientnet-lite0 --epochs 1 --image-size 64 --data-dir pets --no-progress"


def voc_and_wide_teacher(folder: Path) -> None:
    """A teacher for pets with as many outputs as VOC has classes."""
    write_layout(folder / "voc")
    squeeze(folder, f"baseline {TINY_TRAINING} --data-dir pets --num-classes 21 --name wide")


def three_values(folder: Path) -> None:
    """Masks of three values, which are no pets."""
    for path in (folder / "masks").iterdir():
        values = np.array(Image.open(path))
        values[:5] = 2
        Image.fromarray(values).save(path)


def teacher(options: str) -> Callable[[Path], object]:
    command = f"baseline {options} --name teacher".replace("{T}", TINY_TRAINING)
    return lambda folder: squeeze(folder, command)


def other_weights(folder: Path) -> None:
    """The checkpoint of another baseline of the same shapes."""
    path = folder / "runs" / "base" / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {
        name: tensor + 1 if tensor.is_floating_point() else tensor
        for name, tensor in content["state_dict"].items()
    }
    torch.save(content, path)


def other_settings(folder: Path) -> None:
    path = folder / "runs" / "base" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["head"] = "linear"
    path.write_text(yaml.safe_dump(config))


def unfinished(folder: Path) -> None:
    path = folder / "runs" / "base" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "running"}))


def nothing_made(folder: Path) -> None:
    assert not (folder / "runs" / "it").exists()


def refused(name: str, command: str, code: int, *says: str, **others: object) -> Case:
    """A row of a training that ends before it has a folder."""
    return Case(name, command, code, says, check=nothing_made, **others)  # type: ignore[arg-type]


def no_teacher_in_evaluation(folder: Path) -> None:
    """The teacher's loss is that of training; validation and test need no teacher."""
    record = json.loads((folder / "runs" / "it" / "run.json").read_text())
    assert record["history"][0]["train"]["distill_loss"] > 0
    for metrics in (record["history"][0]["val"], *record["metrics"].values()):
        assert "distill_loss" not in metrics
        parts = sum(metrics[f"{name}_loss"] for name in ("segmentation", "vq", "reconstruction"))
        assert abs(metrics["loss"] - parts) < 1e-5
    shutil.rmtree(folder / "runs" / "base")
    command = "evaluate runs/it --json --no-progress --quiet"
    told = json.loads(squeeze(folder, command))
    assert abs(told["metrics"]["loss"] - record["metrics"]["test"]["loss"]) < 1e-5


ROWS = (
    refused(
        "a data set of as many other classes",
        "train {T} --dataset voc --data-dir voc --distill runs/wide --name it",
        2,
        "its classes are pet, background, border,",
        "those of the data are background, aeroplane",
        uses=("pets",),
        make=voc_and_wide_teacher,
    ),
    refused(
        "a folder of as many other classes",
        f"train {FOLDER} --distill runs/base --name it",
        2,
        "its classes are pet, background, border,",
        "those of the data are class 0, class 1, class 2",
        uses=("images", "masks", "runs/base"),
        make=three_values,
    ),
    refused(
        "a teacher that was trained on test images of another seed",
        f"train {FOLDER} --seed 2 --distill runs/teacher --name it",
        2,
        "its test images differ",
        uses=("images", "masks"),
        make=teacher(f"{FOLDER} --seed 1"),
    ),
    Case(
        "a teacher that was trained on validation images of another seed",
        f"train {ALL_PETS} --seed 2 --distill runs/teacher",
        says=("may have been trained on validation images",),
        uses=("pets",),
        make=teacher(f"{ALL_PETS} --seed 1"),
    ),
    Case(
        "a teacher of the same data",
        f"{PETS} --distill runs/base",
        silent_on=("validation images",),
        uses=USES,
        check=no_teacher_in_evaluation,
    ),
    refused(
        "a teacher with another run's weights",
        f"{PETS} --distill runs/base",
        1,
        "holds the weights of another run",
        uses=USES,
        make=other_weights,
    ),
    refused(
        "a teacher whose settings were changed",
        f"{PETS} --distill runs/base",
        1,
        "was changed since the run was trained",
        uses=USES,
        make=other_settings,
    ),
    refused(
        "a teacher that is not finished",
        f"{PETS} --distill runs/base",
        1,
        "is running, not finished",
        uses=USES,
        make=unfinished,
    ),
    *(
        refused(
            f"a teacher that is no baseline: {run}",
            f"{PETS} --distill runs/{run}",
            2,
            "give a `squeeze baseline` of frozen features",
            uses=("pets", f"runs/{run}"),
        )
        for run in ("vq", "recon")
    ),
    *(
        refused(name, f"{PETS} {options}", 2, *says, uses=USES)
        for name, options, says in (
            ("states before a layer that is trained",
             "--distill runs/base --unfreeze-last-layer",
             ("--distill contradicts --unfreeze-last-layer",)),
            ("a weight of no teacher", "--distill-weight 2", ("add --distill RUN",)),
        )
    ),
    *(
        Case(f"a student with {options}", f"{PETS} --distill runs/base {options}", uses=USES)
        for options in (
            "--add-adapter --head linear",
            "--feature-dim 16 --bottleneck-dim 8 --encoder conv",
        )
    ),
)  # fmt: skip
