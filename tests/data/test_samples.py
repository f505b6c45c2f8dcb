from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from squeeze_cli.data.drawn_pets import SyntheticSample
from squeeze_cli.data.finding import list_images
from squeeze_cli.data.labels import Labels
from squeeze_cli.data.reading import UnreadableImageError
from squeeze_cli.data.samples import FileSample
from squeeze_cli.errors import SqueezeError
from tests.conftest import REAL_DATA
from tests.pets import labelled, noise_image, pets_below, trimap


def test_digest_is_of_image_and_classes_and_of_nothing_else(tmp_path):
    def write(folder: str, image: int, value: int = 1, classes: tuple[int, ...] = (0,)):
        where = tmp_path / folder
        where.mkdir()
        noise_image(23, 17, image).save(where / "a.png")
        Image.new("L", (23, 17), value).save(where / "m.png")
        sample = FileSample(folder, where / "a.png", where / "m.png")
        sample = replace(sample, labels=Labels(sample.read_mask(), classes))
        return replace(sample, facts=sample.read().facts)

    first, same = write("first", 1), write("same", 1)
    others = [write("image", 2), write("mask", 1, value=7), write("class", 1, classes=(1,))]
    without = replace(first, labels=None)
    assert first.digest() == same.digest()
    assert len({s.digest() for s in (first, *others, without)}) == 5


def test_an_image_and_a_mask_of_other_sizes_do_not_fit(file_sample):
    sample = labelled(file_sample(noise_image(23, 17), trimap(17, 23)))
    with pytest.raises(UnreadableImageError, match="23 x 17 pixels, its mask 17 x 23"):
        sample.read()


@pytest.mark.parametrize(
    "sample", [FileSample("a", Path("a.jpg"), Path("a.png")), SyntheticSample("b", 1, 2, 32)]
)
def test_samples_travel_to_worker_processes(sample):
    assert pickle.loads(pickle.dumps(sample)) == sample


def test_list_images_is_sorted_recursive_and_gives_unique_names(tmp_path):
    for name in ("b.JPG", "a.png", "a.webp", "cats/tom.jpeg", ".hidden/x.png", "cats/._tom.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "tom.heic").touch()
    listing = list_images(tmp_path)
    samples = listing.train
    assert [sample.name for sample in samples] == ["a.png", "a.webp", "b", "cats/tom"]
    assert samples[3].image_path == tmp_path / "cats" / "tom.jpeg"
    assert samples[3].mask_path is None
    left = f"Left out 2 files in {tmp_path} that are not images: 1 of .heic, 1 of .txt."
    assert listing.warnings == (left,)


def test_names_that_end_as_a_suffix_stay_apart(tmp_path):
    for name in ("tom.jpg", "tom.png", "tom.jpg.png", "ann.jpg", "ann.jpg.webp", "bob.png.jpg"):
        (tmp_path / name).touch()
    names = [sample.name for sample in list_images(tmp_path).train]
    assert names == ["ann", "ann.jpg.webp", "bob.png", "tom.jpg", "tom.jpg.png", "tom.png"]


def test_list_images_without_images_or_folder_names_the_fix(tmp_path):
    with pytest.raises(SqueezeError, match="put some there"):
        list_images(tmp_path)
    with pytest.raises(SqueezeError, match="give a folder"):
        list_images(tmp_path / "nowhere")


def test_links_to_folders_are_followed_and_each_folder_is_listed_once(tmp_path):
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    for folder in (images / "below", elsewhere / "deep"):
        folder.mkdir(parents=True)
        (folder / "a.jfif").touch()
    (images / "link").symlink_to(elsewhere)
    (images / "again").symlink_to(elsewhere / "deep")
    (images / "below" / "up").symlink_to(images)
    (elsewhere / "back").symlink_to(images / "below")
    (images / "lost.png").symlink_to(tmp_path / "gone.png")
    listing = list_images(images)
    assert [sample.name for sample in listing.train] == ["again/a", "below/a", "lost"]
    (warning,) = listing.warnings
    assert warning.startswith("3 folders in ")
    assert warning.endswith(": below/up, link/back, link/deep.")


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real photographs are not here")
def test_real_photographs_are_readable():
    samples = pets_below(REAL_DATA).listing(download=False).test
    assert len(samples) == 149
    sample = labelled(samples[0])
    assert sample.labels.mask.values == (1, 2, 3)
    assert sample.read().decode().size == sample.labels.mask.size_px
