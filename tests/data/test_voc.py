from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data import known_sets
from squeeze_cli.data.known_sets import VOC_CLASSES, VOCSource
from squeeze_cli.errors import SqueezeError
from tests.data.conftest import serving
from tests.pets import noise_image, splits_of

TRAIN = [f"2007_{number:06d}" for number in range(10)]
VAL = [f"2008_{number:06d}" for number in range(4)]


def write_layout(root: Path) -> Path:
    """VOC's files in small: each image has background, its own kind of object and a border."""
    base = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    for image_set, names in (("train", TRAIN), ("val", VAL)):
        (base / "ImageSets" / "Segmentation" / f"{image_set}.txt").write_text(
            "\n".join(names) + "\n"
        )
        for number, name in enumerate(names):
            noise_image(23, 17, number).save(base / "JPEGImages" / f"{name}.jpg")
            values = np.zeros((17, 23), np.uint8)
            values[4:12, 4:12] = number + 1
            values[3, 4:12] = 255
            mask = Image.fromarray(values, mode="P")
            mask.putpalette([channel for colour in VOC_CLASSES.colours for channel in colour])
            mask.save(base / "SegmentationClass" / f"{name}.png")
    return base


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The archive of small data, behind a local server."""
    write_layout(tmp_path / "packed")
    path = tmp_path / "site" / known_sets.VOC_ARCHIVE["filename"]
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar, serving(path.parent) as site:
        tar.add(tmp_path / "packed" / "VOCdevkit", "VOCdevkit")
        tar.close()
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        served = known_sets.VOC_ARCHIVE | {"url": f"{site}/{path.name}", "md5": md5}
        monkeypatch.setattr(known_sets, "VOC_ARCHIVE", served)
        yield path


def test_train_gives_train_and_val_and_vocs_val_is_the_test(tmp_path: Path) -> None:
    write_layout(tmp_path)
    splits = splits_of("voc", tmp_path, seed=3)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (8, 2, 4)
    assert [sample.name for sample in splits.test] == VAL
    planes = [sample.labels.plane() for sample in splits.test if sample.labels]
    assert [np.unique(plane).tolist() for plane in planes] == [[0, n, 255] for n in (1, 2, 3, 4)]


def test_classes_have_vocs_names_and_colours() -> None:
    assert (len(VOC_CLASSES), VOC_CLASSES.ignore) == (21, (255,))
    assert (VOC_CLASSES.names[0], VOC_CLASSES.names[15]) == ("background", "person")
    assert VOC_CLASSES.colours[0] == (0, 0, 0)
    assert VOC_CLASSES.colours[1] == (128, 0, 0)
    assert VOC_CLASSES.colours[15] == (192, 128, 128)
    assert VOC_CLASSES.colours[20] == (0, 64, 128)


def test_missing_data_are_downloaded_and_unpacked_once(archive: Path, tmp_path: Path) -> None:
    source = VOCSource(DataConfig(data_dir=str(tmp_path / "data")))
    assert [sample.name for sample in source.listing().train] == TRAIN
    archive.unlink()
    assert [sample.name for sample in source.listing().test] == VAL
    assert not (tmp_path / "data" / ".unpacking").exists()


def test_data_that_cannot_be_downloaded_name_the_fix(archive: Path, tmp_path: Path) -> None:
    archive.unlink()
    with pytest.raises(
        SqueezeError,
        match=r"/train.txt is missing and could not be .* put http.*VOCtrainval_11",
    ) as caught:
        VOCSource(DataConfig(data_dir=str(tmp_path / "data"))).listing()
    assert "\n" not in str(caught.value)
