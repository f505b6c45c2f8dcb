"""Anyone's images and masks on the command line: classes, their names, and labels that make no sense."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import ExifTags, Image

from tests.conftest import REAL_DATA, Squeeze
from tests.pets import noise_image, splits_of
from tests.relabelled import KINDS, TABLES, pets, write

TRAIN = (
    "train", "--model", "efficientnet-lite0", "--epochs", "1", "--image-size", "64",
    "--max-batches", "2", "--num-workers", "0", "--no-progress",
)  # fmt: skip


def draw(kind: str, pet: np.ndarray, border: np.ndarray) -> np.ndarray:
    return {
        "ok": np.select([pet, border], [1, 3], 2),
        "zero_based": np.select([pet, border], [0, 2], 1),
        "binary01": pet.astype(int),
        "binary0255": pet * 255,
        "voc": np.select([pet, border], [12, 255], 0),
        "only_background": np.full(pet.shape, 2),
        "one_bit": pet,
    }[kind]


def write_pets(data_dir: Path, kind: str, count: int = 8) -> Path:
    """Data in the layout of Oxford-IIIT Pet, whose trimaps have values of another kind."""
    folder = data_dir / "oxford-iiit-pet"
    for name in ("images", "annotations/trimaps"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:40, :56]
    for number in range(2 * count):
        distance = np.hypot(y - 20, x - 16 - number)
        trimap = draw(kind, distance < 12, (distance >= 12) & (distance < 14))
        values = trimap if trimap.dtype == bool else trimap.astype(np.uint8)
        noise_image(56, 40, number).save(folder / "images" / f"pet_{number}.jpg")
        Image.fromarray(values).save(folder / "annotations" / "trimaps" / f"pet_{number}.png")
    for name, numbers in (("trainval", range(count)), ("test", range(count, 2 * count))):
        lines = "".join(f"pet_{number} 1 1 1\n" for number in numbers)
        (folder / "annotations" / f"{name}.txt").write_text(lines)
    return folder


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("zero_based", "0 in 16 images"),
        ("binary01", "0 in 16 images"),
        ("binary0255", "0 in 16 images"),
        ("voc", "0 in 16 images, 12 in 16 images"),
        ("one_bit", "0 in 16 images"),
    ],
)
def test_trimaps_of_other_values_are_an_error_in_one_line(
    kind: str, found: str, squeeze: Squeeze, tmp_path: Path
) -> None:
    write_pets(tmp_path / "d", kind)
    done = squeeze(*TRAIN, "--data-dir", "d", "--quiet", code=1)
    assert done.stderr.count("\n") == 1
    assert f"16 of 16 masks hold values that belong to no class: {found}; expected" in done.stderr
    assert "expected are 1, 2, 3" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_backbone_that_cannot_be_used_is_an_error_before_masks_are_read(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    write_pets(tmp_path / "d", "voc")
    for flags, said in (
        (("--model", "timm:resnet18", "--layer", "9"), "--layer"),
        (("--model", "timm:resnet1"), "timm:resnet18"),
        (("--model", "vit", "--image-size", "50"), "--image-size"),
    ):
        done = squeeze(*TRAIN, *flags, "--data-dir", "d", "--weights", "none", "--quiet", code=2)
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_values_are_checked_where_features_are_stored(squeeze: Squeeze, tmp_path: Path) -> None:
    write_pets(tmp_path / "d", "ok")
    squeeze(*TRAIN, "--data-dir", "d", "--cache-dir", "cache")
    write_pets(tmp_path / "d", "zero_based")
    done = squeeze(*TRAIN, "--data-dir", "d", "--cache-dir", "cache", code=1)
    assert "0 in 16 images" in done.stderr


def test_single_stray_pixels_count_as_the_nearest_class(squeeze: Squeeze, tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "d", "ok")
    path = folder / "annotations" / "trimaps" / "pet_3.png"
    values = np.array(Image.open(path))
    values[0, :22] = 77  # less than 1 % of 40 x 56 pixels
    Image.fromarray(values).save(path)
    done = squeeze(*TRAIN, "--data-dir", "d")
    assert "Warning: 22 pixels in 1 masks have values that belong to no class" in done.stderr
    values[0, :23] = 77
    Image.fromarray(values).save(path)
    done = squeeze(*TRAIN, "--data-dir", "d", code=1)
    assert "1 of 16 masks" in done.stderr
    assert "77 in 1 image" in done.stderr


def test_images_that_may_stand_on_their_heads_are_counted(squeeze: Squeeze, tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "d", "ok")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    for number in (1, 2, 9):
        noise_image(56, 40, number).save(folder / "images" / f"pet_{number}.jpg", exif=exif)
    told = squeeze(*TRAIN, "--data-dir", "d").stderr
    assert (
        told.count("Warning: 3 images fit their masks with and without their EXIF orientation") == 1
    )


def test_classes_that_never_occur_are_named(squeeze: Squeeze, tmp_path: Path) -> None:
    write_pets(tmp_path / "d", "only_background")
    assert (
        "Warning: No mask has a pixel of pet, border." in squeeze(*TRAIN, "--data-dir", "d").stderr
    )


def test_masks_lie_beside_their_images_with_another_end(squeeze: Squeeze, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    for number in range(10):
        noise_image(80, 80, number).save(tmp_path / "both" / f"{number}.png")
        mask = np.where(np.arange(80 * 80).reshape(80, 80) % 80 < 30 + number, 1, 4)
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "both" / f"{number}_mask.png")
    done = squeeze(*TRAIN, "--images", "both", "--masks", "both", code=2)
    assert "by --mask-suffix, such as _mask" in done.stderr
    done = squeeze(*TRAIN, "--images", "both", "--masks", "both", "--mask-suffix", "_mask")
    assert "Skipped" not in done.stderr
    record = run_of(tmp_path)[1]
    data = record["data"]
    assert data["train_images"] + data["val_images"] + data["test_images"] == 10
    run = str(run_of(tmp_path)[0])
    squeeze("evaluate", run, "--images", "both", "--masks", "both", "--no-progress")
    done = squeeze(*TRAIN, "--images", "both", "--mask-suffix", "_mask", code=2)
    assert "--mask-suffix has no effect without --masks DIR: add it." in done.stderr
    done = squeeze(*TRAIN, "--dataset", "synthetic", "--mask-suffix", "_mask", code=2)
    assert "--mask-suffix has no effect with --dataset synthetic" in done.stderr


@pytest.mark.parametrize("smoothed", [True, False])
def test_values_of_smoothed_edges_are_warned_of(
    smoothed: bool, squeeze: Squeeze, tmp_path: Path
) -> None:
    y, x = np.mgrid[:160, :160]
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(10):
        inside = np.hypot(y - 80.3, x - 70 - number) - 40
        mask = np.clip(128 - 128 * inside, 0, 255) if smoothed else 255 * (inside < 0)
        noise_image(160, 160, number).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    own = ("--images", "images", "--masks", "masks", "--ignore-index", "-1")
    done = squeeze(*TRAIN, *own)
    warned = re.search(r"(\d+) of (\d+) mask values have less than 0\.1%", done.stderr)
    assert bool(warned) == smoothed
    if warned:
        assert int(warned[1]) == int(warned[2]) - 2 > 100


def test_a_class_that_the_default_ignores_is_warned_of(squeeze: Squeeze, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(10):
        noise_image(32, 32, number).save(tmp_path / "images" / f"{number}.png")
        mask = np.repeat(np.array([[0, 128, 255, 255]], np.uint8), 8, axis=1).repeat(32, axis=0)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    own = ("--images", "images", "--masks", "masks", "--overwrite")
    warning = (
        "50.0% of the pixels have the value 255, which is ignored by default: --ignore-index -1"
    )
    assert warning in squeeze(*TRAIN, *own).stderr
    (tmp_path / "classes.yaml").write_text("{0: a, 128: b}")
    for decided in (
        ("--ignore-index", "255"),
        ("--ignore-index", "-1"),
        ("--classes", "classes.yaml"),
    ):
        assert "by default" not in squeeze(*TRAIN, *own, *decided).stderr


def run_of(tmp_path: Path) -> tuple[Path, dict]:
    (folder,) = (tmp_path / "runs").iterdir()
    return folder, json.loads((folder / "run.json").read_text())


def test_a_test_split_that_is_the_training_split_is_not_used(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    folder = write_pets(tmp_path / "d", "ok", count=10)
    lists = folder / "annotations"
    text = (lists / "trainval.txt").read_text()
    (lists / "trainval.txt").write_text(text + text)
    (lists / "test.txt").write_text(text)
    done = squeeze(*TRAIN, "--data-dir", "d")
    assert "Warning: 10 images are listed more than once" in done.stderr
    assert "Warning: 10 images are both in the test split and among those to train" in done.stderr
    data = run_of(tmp_path)[1]["data"]
    assert (data["train_images"], data["val_images"], data["test_images"]) == (6, 2, 2)


def test_images_of_the_test_are_not_trained_on(squeeze: Squeeze, tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "d", "ok", count=8)
    with (folder / "annotations" / "trainval.txt").open("a") as file:
        file.write("pet_9\npet_10\n")
    done = squeeze(*TRAIN, "--data-dir", "d")
    assert "2 images are both in the test split and among those to train on" in done.stderr
    data = run_of(tmp_path)[1]["data"]
    assert (data["train_images"], data["val_images"], data["test_images"]) == (6, 2, 8)


@pytest.mark.slow
def test_copies_in_two_splits_are_counted(squeeze: Squeeze, tmp_path: Path) -> None:
    images = write_pets(tmp_path / "d", "ok", count=8) / "images"
    for number in range(8):
        copied = (images / f"pet_{number}.jpg").read_bytes()
        (images / f"pet_{number + 8}.jpg").write_bytes(copied)
    told = squeeze(*TRAIN, "--data-dir", "d").stderr
    assert "Warning: 8 samples of test are copies of samples of train and val: metrics" in told
    assert "same content" not in squeeze(*TRAIN, "--dataset", "synthetic", "--name", "s").stderr


def folder_flags(folder: str, *others: str) -> tuple[str, ...]:
    return ("--images", f"{folder}/images", "--masks", f"{folder}/masks", *others)


def test_classes_have_their_names_everywhere(squeeze: Squeeze, tmp_path: Path) -> None:
    write(tmp_path / "d", pets(Path()), 6, "palette", most=16)
    flags = folder_flags("d", "--classes", "d/classes.yaml", "--quantizer", "lfq", "--name", "q")
    done = squeeze(*TRAIN, *flags)
    names = [name for _, name, _ in TABLES[6]]
    for name in names:
        assert name in done.stderr  # the table before the training
        assert name in " ".join(done.stdout.split())  # the closing table
    run, record = run_of(tmp_path)
    assert (record["data"]["classes"], record["model"]["num_classes"]) == (names, 6)
    assert len(record["metrics"]["test"]["per_class_iou"]) == 6
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert [entry["name"] for entry in config["data"]["classes"]["classes"]] == names
    assert config["data"]["classes"]["ignore"] == [255]
    (tmp_path / "d" / "classes.yaml").unlink()  # the run has its own
    told = squeeze("evaluate", "runs/q", "--json").stdout
    assert json.loads(told)["classes"] == names
    arguments = ("runs/q/codes/test.sqz", "--to", "masks", "--out", "masks", "--json")
    assert json.loads(squeeze("decode", *arguments).stdout)["classes"] == names
    with Image.open(next((tmp_path / "masks").glob("*.png"))) as image:
        palette = image.getpalette()
    assert palette is not None
    assert palette[3:18] == [channel for _, _, colour in TABLES[6][1:] for channel in colour]
    squeeze("show", "runs/q", "--images", "2")


def test_detected_classes_are_the_runs_own(squeeze: Squeeze, tmp_path: Path) -> None:
    write(tmp_path / "d", pets(Path()), 2, "grey", most=16)
    done = squeeze(*TRAIN, *folder_flags("d"))
    assert re.search(r"0  class 0 +\d+\.\d +16\n +1  class 1", done.stderr)
    run, record = run_of(tmp_path)
    assert record["data"]["classes"] == ["class 0", "class 1"]
    mask = next((tmp_path / "d" / "masks").glob("*.png"))
    Image.fromarray(np.full((64, 64), 2, np.uint8)).save(mask)
    told = squeeze("evaluate", str(run), code=1).stderr
    assert "2 in 1 image; expected are 0, 1" in told
    (tmp_path / "d").rename(tmp_path / "moved")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(str(mask).replace("/d/", "/moved/"))
    for command in ("evaluate", "show", "extract-embeddings"):
        told = squeeze(command, str(run), "--quiet", code=1).stderr
        assert "There is no d/images, the --images of" in told
        assert told.count("\n") == 1
    told = squeeze("evaluate", str(run), "--data-dir", "moved", code=2).stderr
    assert "--data-dir has no effect with --dataset folder" in told
    squeeze("evaluate", str(run), *folder_flags("moved"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(" d/", " moved/"))
    squeeze("show", str(run), "--images", "1")


def test_photographs_take_the_place_of_drawn_images(squeeze: Squeeze, tmp_path: Path) -> None:
    write_pets(tmp_path / "d", "ok", count=5)
    squeeze(*TRAIN, "--dataset", "synthetic", "--subset-size", "8", "--name", "it")
    told = json.loads(squeeze("evaluate", "runs/it", "--data-dir", "d", "--json").stdout)
    assert (told["data_dir"], told["images"]) == ("d", 5)


@pytest.mark.parametrize("classes", TABLES)
def test_masks_of_every_kind_are_the_same_labels(classes: int, tmp_path: Path) -> None:
    """On photographs, or drawn pets where there are none; a training sees nothing else of them."""
    found = []
    for kind in KINDS:
        folder = tmp_path / kind
        write(folder, pets(REAL_DATA), classes, kind, most=15)
        places = {
            name: str(folder / name) for name in ("images", "masks", "test_images", "test_masks")
        }
        listing = splits_of("folder", folder, **places, classes=str(folder / "classes.yaml"))
        splits = listing.named()
        samples = {(split, each.name): each for split in splits for each in splits[split]}
        assert len(samples) == sum(map(len, splits.values())) > 15
        found.append(samples)
    assert list(found[0]) == list(found[1]) == list(found[2])
    seen = set()
    for first, *others in zip(*(samples.values() for samples in found), strict=True):
        assert first.labels is not None
        plane = first.labels.plane()
        seen |= set(np.unique(plane).tolist())
        for other in others:
            assert other.labels is not None
            assert np.array_equal(other.labels.plane(), plane)
    assert {0, 1} <= seen <= {*range(classes), 255}


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--masks", "m"), "--masks has no effect with --dataset oxford-pet"),
        (("--dataset", "folder", "--masks", "m"), "--images DIR"),
        (("--images", "d", "--loss", "ce"), "--masks DIR"),
        (("--images", "d", "--masks", "m", "--data-dir", "d"), "--data-dir has no effect with"),
        (("--images", "d", "--masks", "m", "--test-images", "t"), "--test-masks need each other"),
        (("--dataset", "voc", "--ignore-index", "0"), "--ignore-index has no effect with"),
        (("--images", "d", "--masks", "m", "--classes", "none.yaml"), "Cannot read none.yaml"),
        (("--dataset", "voc", "--num-classes", "20"), "the data have 21 classes"),
        (("--dataset", "voc", "--class-weights", "1,2"), "give 21, one for each class."),
    ],
)
def test_options_that_mean_nothing_together(
    flags: tuple[str, ...], reason: str, squeeze: Squeeze
) -> None:
    done = squeeze("train", *flags, code=2)
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_class_weights_follow_the_classes_that_are_found(squeeze: Squeeze, tmp_path: Path) -> None:
    write(tmp_path / "d", pets(Path()), 2, "grey", most=16)
    done = squeeze(*TRAIN, *folder_flags("d", "--class-weights", "1,2,3"), code=2)
    assert "give 2, one for each class" in done.stderr
    squeeze(*TRAIN, *folder_flags("d", "--class-weights", "1,2"))
