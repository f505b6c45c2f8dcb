from __future__ import annotations

import pytest
from torch.utils.data import DataLoader, Dataset

from squeeze_cli.data.sampling import EpochBatches, EpochShuffle

PINNED = ([3, 4, 2, 7, 6, 1, 5, 0], [0, 4, 6, 1, 2, 7, 3, 5])


def test_order_is_pinned():
    shuffle = EpochShuffle(8, seed=42)
    assert list(shuffle) == PINNED[0]
    shuffle.set_epoch(1)
    assert list(shuffle) == PINNED[1]


def test_a_resumed_run_sees_the_order_of_an_unbroken_one():
    unbroken, resumed = EpochBatches(23, 4, 7, shuffle=True), EpochBatches(23, 4, 7, shuffle=True)
    epochs = []
    for epoch in range(5):
        unbroken.set_epoch(epoch)
        epochs.append(list(unbroken))
    resumed.set_epoch(3)
    assert list(resumed) == epochs[3]
    assert epochs[3] != epochs[4]
    assert list(resumed) == list(resumed)  # nothing but set_epoch moves it on


def test_seed_and_epoch_are_not_interchangeable():
    one, other = EpochShuffle(50, seed=1), EpochShuffle(50, seed=2)
    one.set_epoch(2)
    other.set_epoch(1)
    assert list(one) != list(other)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 10, 16, 17])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_batches_cover_each_index_once(count, shuffle, drop_last):
    sampler = EpochBatches(count, 4, 3, shuffle, drop_last)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    flat = [index for batch in batches for index in batch]
    assert len(set(flat)) == len(flat)
    assert len(flat) == (count - count % 4 if drop_last else count)
    if not shuffle:
        assert flat == list(range(len(flat)))


def test_a_single_last_image_joins_its_neighbours_in_training_only():
    training = list(EpochBatches(9, 4, 0, shuffle=True))
    assert [len(batch) for batch in training] == [4, 5]
    assert [len(batch) for batch in EpochBatches(9, 4, 0, shuffle=False)] == [4, 4, 1]
    assert [len(batch) for batch in EpochBatches(1, 4, 0, shuffle=True)] == [1]
    assert [len(batch) for batch in EpochBatches(3, 1, 0, shuffle=True)] == [1, 1, 1]


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_size"):
        EpochBatches(9, 0, 0, shuffle=False)


class _WholeBatches(Dataset[list[int]]):
    def __getitem__(self, indices: list[int]) -> list[int]:
        return indices


def test_works_as_a_sampler_of_whole_batches():
    sampler = EpochBatches(9, 4, 0, shuffle=True)
    loader = DataLoader(_WholeBatches(), batch_size=None, sampler=sampler, collate_fn=list)
    assert list(loader) == list(sampler)
    assert len(loader) == 2
