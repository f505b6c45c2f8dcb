from __future__ import annotations

from dataclasses import replace

import pytest

from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.drawn_pets import SyntheticPetSource, SyntheticSample
from squeeze_cli.data.sources import Listing
from squeeze_cli.data.splits import complete_splits
from squeeze_cli.errors import SqueezeError
from tests.conftest import REAL_DATA
from tests.pets import cut, noise_image, splits_of


def names(samples):
    return [sample.name for sample in samples]


def split(indices: range, seed: int) -> tuple[list[int], list[int]]:
    """The indices of training and validation samples."""
    samples = tuple(SyntheticSample(str(index), 0, index, 32) for index in indices)
    splits = complete_splits(Listing(samples, test=samples), "here", seed)
    return [each.index for each in splits.train], [each.index for each in splits.val]


PINNED_42 = ([0, 7, 3, 2, 4, 9, 1, 8], [5, 6])


def test_split_order_is_pinned():
    train, val = split(range(10), seed=42)
    assert (train, val) == PINNED_42
    assert split(range(10), seed=43) != (train, val)


@pytest.mark.parametrize(
    ("count", "val_count"), [(2, 1), (3, 1), (4, 1), (5, 1), (7, 1), (8, 2), (160, 32)]
)
def test_split_is_disjoint_complete_and_about_a_fifth(count, val_count):
    train, val = split(range(count), seed=5)
    assert len(val) == val_count
    assert sorted(train + val) == list(range(count))


def test_too_few_samples_name_the_fix(tiny_pets):
    (tiny_pets / "oxford-iiit-pet" / "annotations" / "trainval.txt").write_text("Abyssinian_2\n")
    with pytest.raises(SqueezeError, match=r"1 for training, .* provide 2 or more"):
        splits_of("oxford-pet", tiny_pets)


def test_build_splits_keeps_the_official_test_split_apart(tiny_pets):
    splits = splits_of("oxford-pet", tiny_pets, seed=42)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (8, 2, 4)
    assert all(name.startswith("Abyssinian") for name in names(splits.train + splits.val))
    assert names(splits.test) == ["Bengal_1", "Bengal_2", "Bengal_3", "Bengal_4"]
    assert splits.skipped == ()
    assert splits == splits_of("oxford-pet", tiny_pets, seed=42)


def test_subset_is_chosen_before_the_split_and_caps_the_test(tiny_pets):
    splits = splits_of("oxford-pet", tiny_pets, seed=1, subset_size=5)
    assert (len(splits.train) + len(splits.val), len(splits.test)) == (5, 4)
    larger = splits_of("oxford-pet", tiny_pets, seed=1, subset_size=1000)
    assert (len(larger.train) + len(larger.val), len(larger.test)) == (10, 4)


def test_broken_masks_are_left_out_and_reported(broken_pets):
    splits = splits_of("oxford-pet", broken_pets, seed=0)
    assert len(splits.train) + len(splits.val) == 9
    ((name, reason),) = splits.skipped
    assert name == "Abyssinian_6"
    assert "Abyssinian_6.png" in reason


def test_no_readable_mask_says_why(tiny_pets):
    for path in (tiny_pets / "oxford-iiit-pet" / "annotations" / "trimaps").glob("Bengal*"):
        cut(path)
    with pytest.raises(SqueezeError, match=r"10 for training, 0 for the test.*Bengal_1\.png"):
        splits_of("oxford-pet", tiny_pets, seed=0)


def read(splits: Listing) -> Listing:
    """The splits once their images were read."""
    kept = {
        name: [replace(sample, facts=sample.read().facts) for sample in getattr(splits, name)]
        for name in ("train", "val", "test")
    }
    return splits.with_splits(kept)


def test_digest_follows_contents_names_and_splits(tiny_pets):
    def digest(seed: int = 0) -> str:
        return read(splits_of("oxford-pet", tiny_pets, seed)).digest()

    before = digest()
    assert before == digest()
    assert before != digest(seed=1)
    path = tiny_pets / "oxford-iiit-pet" / "images" / "Bengal_2.jpg"
    content = path.read_bytes()
    noise_image(47, 31, seed=99).save(path)
    assert digest() != before
    path.write_bytes(content)  # another modification time, the same content
    assert digest() == before
    one, two = SyntheticSample("a", 0, 0, 32), SyntheticSample("b", 0, 1, 32)
    first, second = Listing((one,), (two,), ()), Listing((two,), (one,), ())
    assert read(first).digest() != read(second).digest()


def test_digest_of_the_test_follows_the_test_alone():
    one, two, three = (SyntheticSample(name, 0, row, 32) for row, name in enumerate("abc"))
    digests = [
        read(Listing(*splits)).digest("test")
        for splits in [
            ((one,), (two,), (three,)),
            ((two,), (one,), (three,)),
            ((one,), (three,), (two,)),
        ]
    ]
    assert digests[0] == digests[1] != digests[2]


def test_synthetic_images_are_the_same_for_every_seed(tmp_path):
    first = splits_of("synthetic", tmp_path, seed=1)
    second = splits_of("synthetic", tmp_path, seed=2)
    assert (len(first.train), len(first.val), len(first.test)) == (128, 32, 40)
    assert first.test == second.test
    assert set(first.train + first.val) == set(second.train + second.val)
    assert first.train != second.train


def test_synthetic_images_have_even_indices_to_train_on_and_odd_ones_for_the_test():
    listing = SyntheticPetSource(DataConfig(image_size="32x48")).listing()
    assert [sample.index for sample in listing.train] == list(range(0, 320, 2))
    assert [sample.index for sample in listing.test] == list(range(1, 80, 2))
    assert {sample.image_size_px for sample in listing.train + listing.test} == {48}


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real photographs are not here")
def test_real_subset():
    splits = splits_of("oxford-pet", REAL_DATA, seed=42, subset_size=20)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (16, 4, 20)
