"""`squeeze show`: which images, beside which baseline, in which file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from squeeze_cli.cli import app
from squeeze_cli.inference.show import find_baseline
from squeeze_cli.runs import RunFolder
from tests.conftest import Squeeze
from tests.records import record, write


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/b, a baseline, and runs/q, on the same 12 + 12 drawn images at 64 px."""
    folder = tmp_path_factory.mktemp("trained")
    for command in (["baseline", "--name", "b"], ["train", "--quantizer", "fsq", "--name", "q"]):
        arguments = [
            *command, "--model", "efficientnet-lite0", "--dataset", "synthetic", "--quiet",
            "--image-size", "64", "--subset-size", "12", "--num-workers", "0", "--epochs", "1",
            "--output-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache"),
        ]  # fmt: skip
        assert CliRunner().invoke(app, arguments).exit_code == 0
    return folder


def show(squeeze: Squeeze, folder: Path, *arguments: str) -> dict[str, Any]:
    return json.loads(squeeze("show", str(folder / "runs" / "q"), "--json", *arguments).stdout)


def test_prints_the_path_of_a_picture_in_the_runs_folder(squeeze: Squeeze, trained: Path) -> None:
    path = trained / "runs" / "q" / "figures" / "show-test-spread.png"
    done = squeeze("show", str(trained / "runs" / "q"), "--images", "3")
    assert done.stdout == f"{path}\n"
    with Image.open(path) as wide:
        size = wide.size
    squeeze("show", str(trained / "runs" / "q"), "--images", "2", "--quiet", "--out", "two.png")
    with Image.open("two.png") as narrow:
        assert narrow.width < size[0]
        assert narrow.height == size[1]  # four rows in both


@pytest.mark.slow
def test_best_and_worst_are_the_two_ends(squeeze: Squeeze, trained: Path) -> None:
    everything = show(squeeze, trained, "--images", "24")["images"]
    assert len(everything) == 12
    ious = sorted(image["iou"] for image in everything)
    worst = show(squeeze, trained, "--worst", "--images", "3", "--batch-size", "1")
    best = show(squeeze, trained, "--best", "--images", "2")
    assert [image["iou"] for image in worst["images"]] == pytest.approx(ious[:3])
    assert [image["iou"] for image in best["images"]] == pytest.approx(ious[:-3:-1])
    assert best["baseline"] == "b"
    by_name = {image["name"]: image["baseline_iou"] for image in everything}
    for image in worst["images"]:
        assert image["baseline_iou"] == pytest.approx(by_name[image["name"]])


@pytest.mark.slow
def test_random_ones_come_again_with_their_seed(squeeze: Squeeze, trained: Path) -> None:
    def names(*arguments: str) -> list[str]:
        found = show(squeeze, trained, "--random", "--images", "4", *arguments)
        return [image["name"] for image in found["images"]]

    assert names() == names("--seed", "0")
    assert names() != names("--seed", "1")


def test_a_baseline_is_shown_alone_and_any_run_beside_another(
    squeeze: Squeeze, trained: Path
) -> None:
    done = squeeze("show", str(trained / "runs" / "b"), "--split", "val", "--json")
    result = json.loads(done.stdout)
    assert (result["baseline"], result["split"]) == (None, "val")
    assert "left out" not in done.stderr
    both = squeeze("show", str(trained / "runs" / "b"), "--baseline", str(trained / "runs" / "q"),
                   "--json", "--images", "1")  # fmt: skip
    assert json.loads(both.stdout)["baseline"] == "q"


def test_without_a_usable_baseline_its_row_is_left_out_with_a_note(
    squeeze: Squeeze, trained: Path
) -> None:
    checkpoint = RunFolder(trained / "runs" / "b").best_checkpoint
    aside = checkpoint.rename(checkpoint.with_suffix(".aside"))
    try:
        done = squeeze("show", str(trained / "runs" / "q"), "--json", "--images", "1")
    finally:
        aside.rename(checkpoint)
    assert json.loads(done.stdout)["images"][0]["baseline_iou"] is None
    assert "The baseline's row is left out" in done.stderr
    assert "b/checkpoints/best.ckpt is missing: restore it or train anew." in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--best", "--random"), 2, "--best and --random contradict"),
        (("--seed", "3"), 2, "no effect without --random"),
        (("--out", "picture.jpg"), 2, ".png or .svg"),
        (("--images", "0"), 2, "--images"),
        (("--baseline", "nowhere"), 1, "holds no run.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes(
    squeeze: Squeeze, trained: Path, arguments: tuple[str, ...], code: int, part: str
) -> None:
    done = squeeze("show", str(trained / "runs" / "q"), *arguments, code=code)
    assert part in " ".join(done.stderr.split())
    assert done.stdout == ""


def neighbour(folder: Path, name: str, *, digest: str = "d1", **changed: Any) -> None:
    made = record(0.5, kind="baseline", **changed)
    made["data"]["digest"] = digest
    write(folder, name, made)


def test_the_baseline_of_the_same_split_is_preferred(tmp_path: Path) -> None:
    run = write(tmp_path, "q", record(0.5))
    assert find_baseline(run, run.read_record(), "test") is None
    neighbour(tmp_path, "a", digest="d2")
    neighbour(tmp_path, "b")
    neighbour(tmp_path, "stopped", status="interrupted")
    write(tmp_path, "broken", "{")
    write(tmp_path, "a-lacking", {"kind": "baseline", "status": "finished", "model": {"x": 1},
                                  "data": {"digest": "d1"}})  # fmt: skip
    found = find_baseline(run, run.read_record(), "test")
    assert found is not None
    assert found.name == "b"


def test_another_splits_baseline_was_trained_on_validation_images(tmp_path: Path) -> None:
    run = write(tmp_path, "q", record(0.5))
    neighbour(tmp_path, "a", digest="d2")
    assert find_baseline(run, run.read_record(), "val") is None
    found = find_baseline(run, run.read_record(), "test")
    assert found is not None
    assert found.name == "a"
    other = run.read_record()
    assert other.model is not None
    other.model.weights_digest = "w2"
    assert find_baseline(run, other, "test") is None
    drawn = run.read_record()  # another seed drew other test images
    assert drawn.data is not None
    drawn.data.test_digest = "t2"
    assert find_baseline(run, drawn, "test") is None


def test_a_baseline_of_other_classes_is_refused(squeeze: Squeeze, trained: Path) -> None:
    folder = trained / "runs" / "other"
    shutil.copytree(trained / "runs" / "b", folder)
    config = folder / "config.yaml"
    named = "[{value: 1, name: cat}, {value: 2, name: background}, {value: 3, name: border}]"
    text = config.read_text()
    assert "classes: null" in text
    text = text.replace("classes: null", f"classes: {{classes: {named}, ignore: [255]}}")
    config.write_text(text)
    content = json.loads((folder / "run.json").read_text())
    del content["settings"]["data.classes"]  # as in the record of a run with these classes
    (folder / "run.json").write_text(json.dumps(content))
    arguments = ("--baseline", str(folder), "--images", "1")
    done = squeeze("show", str(trained / "runs" / "q"), *arguments, code=1)
    shutil.rmtree(folder)
    assert "has the classes cat, background, border" in done.stderr
    assert "the classes pet, background, border: give a --baseline" in done.stderr
    assert done.stderr.count("\n") == 1
