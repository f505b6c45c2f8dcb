from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_cli.data.drawn_pets import SyntheticSample
from squeeze_cli.data.labels import Labels
from squeeze_cli.data.oxford_pet import OxfordPetSource
from squeeze_cli.data.samples import (
    FileSample,
    UnreadableImageError,
    find_readable,
    list_images,
)
from squeeze_cli.errors import SqueezeError
from tests.conftest import REAL_DATA
from tests.pets import cut, noise_image, trimap


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK"])
def test_every_kind_of_image_becomes_rgb_of_the_same_size(mode, file_sample):
    image, mask = file_sample(noise_image(23, 17, mode=mode)).load()
    assert image.mode == "RGB"
    assert image.size == (23, 17)
    assert mask is None


def test_transparent_pixels_are_white_whatever_their_colour(file_sample):
    rgba = np.zeros((5, 9, 4), dtype=np.uint8)
    rgba[:, :4] = (10, 20, 30, 255)
    image, _ = file_sample(Image.fromarray(rgba)).load()
    assert image.getpixel((0, 0)) == (10, 20, 30)
    assert image.getpixel((8, 4)) == (255, 255, 255)


def test_transparent_palette_colour_is_white(tmp_path):
    palette = Image.fromarray(np.tile(np.arange(4, dtype=np.uint8), (3, 1)), mode="L").convert("P")
    palette.save(tmp_path / "a.png", transparency=2)
    image, _ = FileSample("a", tmp_path / "a.png").load()
    assert image.getpixel((2, 0)) == (255, 255, 255)
    assert image.getpixel((3, 0)) == (3, 3, 3)


def test_16_bit_grey_keeps_its_upper_bits_instead_of_clipping(file_sample):
    image, _ = file_sample(Image.fromarray(np.full((3, 7), 0x8012, dtype=np.uint16))).load()
    assert image.getpixel((0, 0)) == (0x80, 0x80, 0x80)


def test_float_images_are_refused_with_the_fix(tmp_path):
    Image.fromarray(np.ones((3, 7), dtype=np.float32)).save(tmp_path / "a.tiff")
    sample = FileSample("a", tmp_path / "a.tiff")
    for read in (sample.load, sample.check):
        with pytest.raises(UnreadableImageError, match="8 or 16 bits"):
            read()


def test_exif_orientation_is_left_alone_as_the_mask_is_stored_that_way(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    noise_image(23, 17).save(tmp_path / "a.jpg", exif=exif)
    assert FileSample("a", tmp_path / "a.jpg").load()[0].size == (23, 17)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp", "gif"])
def test_truncated_file_names_itself_in_one_line(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    noise_image(67, 41).save(path)
    cut(path)
    for read in (FileSample("a", path).load, FileSample("a", path).check):
        with pytest.raises(UnreadableImageError, match=str(path)) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_broken_images_are_skipped_with_a_reason(broken_pets):
    samples = OxfordPetSource(broken_pets, download=False).samples("trainval")
    usable, skipped = find_readable(samples)
    assert [sample.name for sample in usable] == [f"Abyssinian_{n}" for n in (1, 2, 3, 6, 7, 9, 10)]
    reasons = dict(skipped)
    assert list(reasons) == [f"Abyssinian_{n}" for n in (4, 5, 8)]
    assert "truncated" in reasons["Abyssinian_4"]
    assert "is missing" in reasons["Abyssinian_5"]
    assert "cannot identify" in reasons["Abyssinian_8"]
    for number in (4, 5, 8):
        with pytest.raises(UnreadableImageError):
            samples[number - 1].load()


def test_known_contents_are_not_decoded_again(broken_pets, monkeypatch):
    samples = OxfordPetSource(broken_pets, download=False).samples("trainval")
    usable, skipped = find_readable(samples)
    known = {sample.digest() for sample in usable}
    with monkeypatch.context() as patch:
        patch.setattr(FileSample, "check", lambda sample: 1 / 0)
        assert find_readable(usable, known=known) == (usable, [])
    assert find_readable(samples, known=known) == (usable, skipped)


def test_digest_is_of_image_and_classes_and_of_nothing_else(tmp_path):
    def write(folder: str, image: int, value: int = 1, classes: tuple[int, ...] = (0,)):
        where = tmp_path / folder
        where.mkdir()
        noise_image(23, 17, image).save(where / "a.png")
        Image.new("L", (23, 17), value).save(where / "m.png")
        sample = FileSample(folder, where / "a.png", where / "m.png")
        return replace(sample, labels=Labels(sample.read_mask(), classes))

    first, same = write("first", 1), write("same", 1)
    others = [write("image", 2), write("mask", 1, value=7), write("class", 1, classes=(1,))]
    without = FileSample("first", first.image_path)
    assert len(first.digest()) == 32
    assert first.digest() == same.digest()
    assert len({s.digest() for s in (first, *others, without)}) == 5


def test_an_image_and_a_mask_of_other_sizes_do_not_fit(file_sample):
    sample = file_sample(noise_image(23, 17), trimap(17, 23))
    labelled = replace(sample, labels=Labels(sample.read_mask(), (0, 1, 2)))
    for read in (labelled.load, labelled.check):
        with pytest.raises(UnreadableImageError, match="23 x 17 pixels, its mask 17 x 23"):
            read()


def test_digest_of_a_missing_file_is_a_one_line_error(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"gone\.jpg"):
        FileSample("gone", tmp_path / "gone.jpg").digest()


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
    samples = list_images(tmp_path)
    assert [sample.name for sample in samples] == ["a.png", "a.webp", "b", "cats/tom"]
    assert samples[3].image_path == tmp_path / "cats" / "tom.jpeg"
    assert samples[3].mask_path is None


def test_list_images_without_images_or_folder_names_the_fix(tmp_path):
    with pytest.raises(SqueezeError, match="put some there"):
        list_images(tmp_path)
    with pytest.raises(SqueezeError, match="give a folder"):
        list_images(tmp_path / "nowhere")


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real photographs are not here")
def test_real_photographs_are_readable():
    samples = OxfordPetSource(REAL_DATA, download=False).samples("test")
    usable, skipped = find_readable(samples)
    assert len(usable) == 149
    assert skipped == []
    mask = usable[0].read_mask()
    assert usable[0].load()[0].size == mask.size_px
    assert mask.values == (1, 2, 3)
