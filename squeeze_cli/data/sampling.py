"""The order in which samples are visited: a function of (seed, epoch) and of nothing else.

A resumed run sets the epoch and continues exactly as the unbroken one would have; a generator that
carries state from epoch to epoch, as `torch.utils.data.RandomSampler` does, would not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler, SequentialSampler


class EpochShuffle(Sampler[int]):
    """Indices 0..count-1 in an order that depends only on (seed, epoch).

    Lightning calls `set_epoch` at the start of every epoch, also after resuming; whoever iterates
    by hand calls it too.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = np.random.Generator(np.random.PCG64((self.seed, self.epoch)))
        yield from (int(index) for index in generator.permutation(self.count))


class EpochBatches(Sampler[list[int]]):
    """Batches of indices; `shuffle=True` is for training, False keeps the order 0..count-1.

    In training a last batch of a single index joins the batch before it, which then has
    `batch_size + 1`: BatchNorm cannot train on one value per channel, and dropping the image would
    leave a different one out in each epoch. Usable as `batch_sampler`, or as `sampler` beside
    `batch_size=None` where a data set answers a whole batch at once; Lightning finds `set_epoch`
    either way (on the batch sampler it looks at `.sampler`).
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, shuffle: bool, drop_last: bool = False
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        self.count = count
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.sampler: EpochShuffle | SequentialSampler = (
            EpochShuffle(count, seed) if shuffle else SequentialSampler(range(count))
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order the next iteration gives."""
        if isinstance(self.sampler, EpochShuffle):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        full, rest = divmod(self.count, self.batch_size)
        return full if rest == 0 or self.drop_last or self._joins(rest) else full + 1

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.sampler)
        batches = len(self)
        for number in range(batches):
            start = number * self.batch_size
            is_last = number == batches - 1 and not self.drop_last
            yield order[start:] if is_last else order[start : start + self.batch_size]

    def _joins(self, rest: int) -> bool:
        return self.shuffle and rest == 1 and self.count > self.batch_size
