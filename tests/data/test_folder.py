from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.folder import FolderSource
from squeeze_cli.data.splits import choose_samples, complete_splits, label_samples
from squeeze_cli.errors import SqueezeError, UsageError
from tests.pets import noise_image


def write(folder: Path, *names: str, kind: str = "images", suffix: str = ".png") -> None:
    """Images of noise, or masks of the values 0 and 7 and with a pixel of 255."""
    for seed, name in enumerate(names):
        path = folder / kind / (name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind.endswith("images"):
            noise_image(23, 17, seed).save(path)
        else:
            values = np.zeros((17, 23), np.uint8)
            values[4:9, 3:20] = 7
            values[0, 0] = 255
            Image.fromarray(values).save(path)


def write_pairs(folder: Path, *names: str) -> None:
    write(folder, *names, suffix=".jpg")
    write(folder, *names, kind="masks")


def config_of(folder: Path, **others: object) -> DataConfig:
    values = {"dataset": "folder", "images": str(folder / "images"), "masks": str(folder / "masks")}
    paths = {key: str(folder / str(value)) for key, value in others.items() if key != "classes"}
    return DataConfig.model_validate({**values, **others, **paths})


def names(samples) -> list[str]:
    return [sample.name for sample in samples]


def test_images_and_masks_pair_by_path_and_stem(tmp_path):
    write_pairs(tmp_path, "b", "cats/a", "dogs/a")
    listing = FolderSource(config_of(tmp_path)).listing()
    assert names(listing.train) == ["b", "cats/a", "dogs/a"]
    assert listing.train[1].mask_path == tmp_path / "masks" / "cats" / "a.png"
    assert (listing.val, listing.test, listing.skipped, listing.warnings) == ((), (), (), ())


def test_folders_that_look_like_splits_are_said(tmp_path):
    write_pairs(tmp_path, "Train/a", "Valid/b", "Test/c", "valley/d")
    listing = FolderSource(config_of(tmp_path)).listing()
    assert len(listing.train) == 4
    assert listing.warnings == (
        f"The folders Test/, Train/, Valid/ of {tmp_path / 'images'} are not splits, so the seed draws "
        "these from all images: name the folders train/, val/ and test/, or give --split-file.",
    )


def test_what_does_not_pair_is_said(tmp_path):
    write_pairs(tmp_path, "a", "b")
    write(tmp_path, "alone", "twice")
    write(tmp_path, "twice", "spare", kind="masks")
    write(tmp_path, "twice", kind="masks", suffix=".bmp")
    listing = FolderSource(config_of(tmp_path)).listing()
    assert names(listing.train) == ["a", "b"]
    assert dict(listing.skipped).keys() == {"alone", "twice"}
    assert "no mask" in dict(listing.skipped)["alone"]
    assert "twice.bmp and twice.png" in dict(listing.skipped)["twice"]
    (warning,) = listing.warnings
    assert "1 masks" in warning
    assert "spare.png" in warning


def test_images_of_one_stem_share_no_mask(tmp_path):
    write_pairs(tmp_path, "a", "b", "c/a")
    write(tmp_path, "a", suffix=".png")
    listing = FolderSource(config_of(tmp_path)).listing()
    assert (names(listing.train), listing.warnings) == (["b", "c/a"], ())
    assert dict(listing.skipped).keys() == {"a.jpg", "a.png"}
    assert all("2 images are named a, except for their suffixes" in r for _, r in listing.skipped)


def test_nothing_that_pairs_is_an_error_with_an_example(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "a_mask", kind="masks")
    with pytest.raises(
        SqueezeError,
        match=r"image a\.png needs a mask .* mask is a_mask\.png: give --mask-suffix _mask\.",
    ):
        FolderSource(config_of(tmp_path)).listing()


@pytest.mark.parametrize(
    ("images", "masks", "fix"),
    [
        (("a/1_photo", "a/2_photo"), ("a/1_color", "a/2_ids", "a/1_ids"), "photo=ids"),
        (("x-image", "y-image"), ("x", "y"), "-image="),
        (("1", "2", "3"), ("1_L", "2_P", "3_L"), "_L"),
        (("1", "2", "3"), ("1_L", "b", "c"), None),
        (("1", "2"), ("masks/1", "masks/2"), None),
        (("1", "2"), ("mask_1", "mask_2"), None),
    ],
)
def test_the_error_gives_the_end_that_pairs_most_images(tmp_path, images, masks, fix):
    write(tmp_path, *images, suffix=".jpg")
    write(tmp_path, *masks, kind="masks")
    with pytest.raises(SqueezeError) as error:
        FolderSource(config_of(tmp_path)).listing()
    found = str(error.value).partition("give --mask-suffix ")[2].rstrip(".")
    assert (found or None) == fix
    if fix:
        config = config_of(tmp_path).model_copy(update={"mask_suffix": fix})
        assert len(FolderSource(config).listing().train) >= 2
    else:
        assert str(error.value).endswith(": rename the masks.")


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    ("suffix", "image_end", "mask_end"),
    [("_mask", "", "_mask"), ("=_mask", "", "_mask"), ("_leftImg8bit=_gtFine_labelIds",
      "_leftImg8bit", "_gtFine_labelIds")],
)  # fmt: skip
def test_masks_whose_names_have_another_end(tmp_path, together, suffix, image_end, mask_end):
    write(tmp_path, *(f"train/{n}{image_end}" for n in "ab"), f"test/c{image_end}", suffix=".jpg")
    write(tmp_path, f"train/lonely{image_end}", suffix=".jpg")
    names_of_masks = (f"train/a{mask_end}", f"train/b{mask_end}", f"test/c{mask_end}")
    write(tmp_path, *names_of_masks, "test/c_colours", f"train/z{mask_end}", kind="masks")
    where = "masks"
    if together:
        where = "images"
        shutil.copytree(tmp_path / "masks", tmp_path / "images", dirs_exist_ok=True)
    config = config_of(tmp_path).model_copy(
        update={"masks": str(tmp_path / where), "mask_suffix": suffix}
    )
    listing = FolderSource(config).listing()
    assert names(listing.train) == [f"train/a{image_end}", f"train/b{image_end}"]
    assert names(listing.test) == [f"test/c{image_end}"]
    assert [sample.mask_path for sample in (*listing.train, *listing.test)] == [
        tmp_path / where / f"{name}.png" for name in names_of_masks
    ]
    reasons = dict(listing.skipped)
    mask = tmp_path / where / f"train/lonely{mask_end}"
    assert reasons.pop(f"train/lonely{image_end}") == f"there is no mask {mask} of any kind."
    assert list(reasons) == (["test/c_colours"] if together else [])
    others = f"Left out 1 files in {tmp_path / where} whose names do not end in {mask_end}."
    assert (others in listing.warnings) != together
    assert (
        f"1 masks in {tmp_path / where} have no image: train/z{mask_end}.png." in listing.warnings
    )


def test_masks_among_their_images_need_an_end(tmp_path):
    write(tmp_path, "a", "a_mask")
    config = config_of(tmp_path).model_copy(update={"masks": str(tmp_path / "images")})
    with pytest.raises(UsageError, match=r"or give the end of their names by --mask-suffix"):
        FolderSource(config).listing()


def test_masks_below_the_images_are_no_images(tmp_path):
    write(tmp_path, "a", "b", suffix=".jpg")
    write(tmp_path, "a", "b", kind="images/masks")
    listing = FolderSource(config_of(tmp_path, masks="images/masks")).listing()
    assert (names(listing.train), listing.skipped) == (["a", "b"], ())
    with pytest.raises(UsageError, match="another folder"):
        FolderSource(config_of(tmp_path, masks="images")).listing()


def test_subfolders_name_the_splits(tmp_path):
    write_pairs(tmp_path, "train/a", "train/b", "test/a")
    listing = FolderSource(config_of(tmp_path)).listing()
    assert names(listing.train) == ["train/a", "train/b"]
    assert (listing.val, names(listing.test)) == ((), ["test/a"])
    write_pairs(tmp_path, "others/c")
    with pytest.raises(SqueezeError, match=r"1 images outside .*others/c"):
        FolderSource(config_of(tmp_path)).listing()


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        (("training", "test"), "test/"),
        (("val", "other"), "val/"),
        (("val", "test"), "val/ and test/"),
    ],
)
def test_images_of_val_and_test_are_never_trained_on(folders, named, tmp_path):
    write_pairs(tmp_path, *(f"{folder}/{name}" for folder in folders for name in "abc"))
    with pytest.raises(SqueezeError, match=rf"has images in {named}, but none .* in train/"):
        FolderSource(config_of(tmp_path)).listing()


@pytest.mark.parametrize("by", ["file", "folder"])
def test_splits_without_test_images_are_a_warning(by, tmp_path):
    write_pairs(tmp_path, *(f"train/{name}" for name in "abcdefghij"), "val/k")
    lines = [f"train/{name} train\n" for name in "abcdefghij"]
    (tmp_path / "splits.txt").write_text("".join([*lines, "val/k val\n"]))
    config = config_of(tmp_path, **({"split_file": "splits.txt"} if by == "file" else {}))
    listing = choose_samples(config, 1)
    assert [len(split) for split in (listing.train, listing.val, listing.test)] == [8, 1, 2]
    place = tmp_path / ("splits.txt" if by == "file" else "images")
    assert listing.warnings == (
        f"{place} names no test images: 20 % of those in train become the test split.",
    )
    write(tmp_path, "a", kind="test_images")
    write(tmp_path, "a", kind="test_masks")
    others = {"test_images": "test_images", "test_masks": "test_masks"}
    assert FolderSource(config_of(tmp_path, **others)).listing().warnings == ()


def test_test_images_are_the_test_split(tmp_path):
    write_pairs(tmp_path, "a", "b")
    write(tmp_path, "a", kind="test_images")
    write(tmp_path, "a", kind="test_masks")
    others = {"test_images": "test_images", "test_masks": "test_masks"}
    listing = FolderSource(config_of(tmp_path, **others)).listing()
    assert (names(listing.train), names(listing.test)) == (["a", "b"], ["test/a"])


def test_test_images_are_the_same_by_whatever_path(tmp_path):
    write_pairs(tmp_path, "a", "b", "c", "d")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    config = config_of(tmp_path, test_images="link/images", test_masks="link/masks")
    listing = choose_samples(config, seed=0)
    paths = [s.image_path.resolve() for split in (listing.train, listing.test) for s in split]
    assert len(set(paths)) == len(paths) == 4
    assert "4 images are both in the test split and among those to train on" in listing.warnings[0]


def test_a_split_file_names_the_splits(tmp_path):
    write_pairs(tmp_path, "a", "b", "cats/c d", "e", "f")
    text = "\ufeff# mine\r\n\r\na train\r\nb.jpg\tval\r\ncats/c d, test\r\ne,train\r\n"
    (tmp_path / "splits.txt").write_text(text, encoding="utf-8")
    listing = FolderSource(config_of(tmp_path, split_file="splits.txt")).listing()
    assert names(listing.train) == ["a", "e"]
    assert (names(listing.val), names(listing.test)) == (["b"], ["cats/c d"])
    (warning,) = listing.warnings
    assert "1 images are not listed" in warning


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a train\nb validate\n", r"splits\.txt, line 2: 'b validate' does not end in"),
        ("a\n", r"line 1: 'a' does not end in"),
        ("train\n", r"line 1: 'train' does not end in"),
        ("# only\n", r"splits\.txt names nothing: write a name on each line"),
        (
            "a train\nz test\n",
            r"splits\.txt, line 2: there is no image 'z', as names are like 'a': ",
        ),
        (
            "a train\nb val\na.jpg test\n",
            "line 3: 'a.jpg' is in test here and in train in line 1",
        ),
    ],
)
def test_a_split_file_that_means_nothing_names_the_line(text, reason, tmp_path):
    write_pairs(tmp_path, "a", "b")
    (tmp_path / "splits.txt").write_text(text)
    with pytest.raises(SqueezeError, match=reason) as caught:
        FolderSource(config_of(tmp_path, split_file="splits.txt")).listing()
    assert "\n" not in str(caught.value)


def test_the_seed_draws_the_splits_that_are_missing(tmp_path):
    write_pairs(tmp_path, *(f"{number:02d}" for number in range(20)))
    config = config_of(tmp_path)
    splits = [
        complete_splits(label_samples(config, choose_samples(config, seed))[0], "here", seed)
        for seed in (1, 1, 2)
    ]
    assert [(len(s.train), len(s.val), len(s.test)) for s in splits] == [(13, 3, 4)] * 3
    assert len({*names(splits[0].train), *names(splits[0].val), *names(splits[0].test)}) == 20
    assert splits[0] == splits[1] != splits[2]


def test_classes_are_detected_and_unreadable_masks_are_skipped(tmp_path):
    write_pairs(tmp_path, "a", "b", "c", "d")
    (tmp_path / "masks" / "d.png").write_bytes(b"no mask")
    config = config_of(tmp_path)
    listing, masks = label_samples(config, choose_samples(config, 1))
    assert (masks.table.values, masks.table.ignore) == ([0, 7], (255,))
    assert masks.images == (3, 3)
    ((name, reason),) = listing.skipped
    assert name == "d"
    assert "d.png (it is in no image format that can be read, or is empty)" in reason


def test_a_pipe_among_the_masks_is_skipped(tmp_path):
    write_pairs(tmp_path, "a", "b", "c", "d")
    (tmp_path / "masks" / "d.png").unlink()
    os.mkfifo(tmp_path / "masks" / "d.png")
    config = config_of(tmp_path)
    ((name, reason),) = label_samples(config, choose_samples(config, 1))[0].skipped
    assert (name, "not a regular file" in reason) == ("d", True)


def test_a_split_file_of_skipped_images_says_why(tmp_path):
    write_pairs(tmp_path, "a")
    write(tmp_path, "b", "c", suffix=".jpg")
    (tmp_path / "splits.txt").write_text("b train\nc.jpg test\n")
    config = config_of(tmp_path, split_file="splits.txt")
    with pytest.raises(SqueezeError, match=r"0 for training, 0 .* b is skipped: there is no mask"):
        label_samples(config, choose_samples(config, 1))


def test_each_mask_is_read_once(tmp_path, monkeypatch):
    write_pairs(tmp_path, "a", "b", "c", "d")
    read = []
    own = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a: read.append(path.name) or own(path, *a))
    config = config_of(tmp_path)
    splits = complete_splits(label_samples(config, choose_samples(config, 1))[0], "here", 1)
    for sample in splits.train:
        sample.read().decode()
    assert sorted(name for name in read if name.endswith(".png")) == [
        "a.png",
        "b.png",
        "c.png",
        "d.png",
    ]


def test_unknown_values_are_never_mapped(tmp_path):
    write_pairs(tmp_path, "a", "b", "c")
    config = config_of(tmp_path, classes={0: "other", 5: "pet"})
    with pytest.raises(SqueezeError, match=r"3 of 3 masks .*7 in 3 images.*--classes"):
        label_samples(config, choose_samples(config, 1))
