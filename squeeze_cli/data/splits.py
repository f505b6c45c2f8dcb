"""Splits: the samples for training, validation and test."""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import numpy as np

from squeeze_cli.config.schema import Size
from squeeze_cli.data.drawn_pets import SyntheticPetSource
from squeeze_cli.data.oxford_pet import OxfordPetSource
from squeeze_cli.data.samples import DIGEST_BYTES, Sample, find_readable
from squeeze_cli.errors import SqueezeError, UsageError

T = TypeVar("T")

VAL_FRACTION = 0.2

# Streams of the one seed: a subset must not be chosen by the same shuffle that splits it later.
_SPLIT_STREAM, _SUBSET_STREAM = 0, 1


@dataclass(frozen=True)
class SplitSamples:
    """The usable samples of each split, and (name, reason) for each sample that was skipped."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def digest(self) -> str:
        """Hex BLAKE2b-128 over each split's names and contents, in order; this reads every file."""
        total = blake2b(digest_size=DIGEST_BYTES)
        with ThreadPoolExecutor() as pool:
            for split, samples in (("train", self.train), ("val", self.val), ("test", self.test)):
                digests = pool.map(lambda sample: sample.digest(), samples)
                for sample, digest in zip(samples, digests, strict=True):
                    total.update(f"{split}\0{sample.name}\0{digest}\n".encode())
        return total.hexdigest()


def split_train_val(samples: Sequence[T], seed: int) -> tuple[list[T], list[T]]:
    """Shuffle two samples or more by the seed and split them, the same on every machine."""
    shuffled = _shuffled(samples, seed, _SPLIT_STREAM)
    val_count = max(round(len(samples) * VAL_FRACTION), 1)
    return shuffled[val_count:], shuffled[:val_count]


def build_splits(
    dataset: str,
    data_dir: Path,
    size_px: Size,
    seed: int,
    subset_size: int | None,
    known: Collection[str] = (),
) -> SplitSamples:
    """Split the readable samples of trainval into training and validation; test stays apart.

    Args:
        dataset: 'oxford-pet' or 'synthetic'; another one raises UsageError.
        data_dir: folder of the photographs, or to download them to; unused by 'synthetic'.
        size_px: height and width; 'synthetic' draws squares of the longer side.
        seed: seed for the choice of a subset and for the split, but not for synthetic images.
        subset_size: most usable samples to take from trainval and from test; None takes all.
        known: digests of samples that were decoded before; they are not decoded again.

    Raises SqueezeError if data are missing and cannot be downloaded, or if too few can be read.
    """
    trainval, test = list_samples(dataset, data_dir, size_px)
    trainval, skipped = _choose_usable(trainval, seed, subset_size, known)
    test, skipped_test = _choose_usable(test, seed, subset_size, known)
    skipped += skipped_test
    if not test or len(trainval) < 2:
        example = f" For example: {skipped[0][1]}" if skipped else ""
        raise SqueezeError(
            f"Too few images of {dataset} can be read ({len(trainval)} for training, {len(test)} for "
            f"the test): provide 2 or more to train on and 1 or more for the test.{example}"
        )
    train, val = split_train_val(trainval, seed)
    return SplitSamples(tuple(train), tuple(val), tuple(test), tuple(skipped))


def list_samples(
    dataset: str, data_dir: Path, size_px: Size
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """List trainval and test for `build_splits`; this downloads missing data, but reads no image."""
    source: OxfordPetSource | SyntheticPetSource
    if dataset == "oxford-pet":
        source = OxfordPetSource(data_dir)
    elif dataset == "synthetic":
        source = SyntheticPetSource(image_size_px=max(size_px))
    else:
        raise UsageError(f"Unknown dataset {dataset!r}: choose one of oxford-pet, synthetic.")
    return source.samples("trainval"), source.samples("test")


def _choose_usable(
    listed: Sequence[Sample], seed: int, count: int | None, known: Collection[str]
) -> tuple[list[Sample], list[tuple[str, str]]]:
    """Return all usable samples, or `count` chosen by the seed; no other file is read."""
    if count is None:
        return find_readable(listed, known=known)
    shuffled = _shuffled(listed, seed, _SUBSET_STREAM)
    usable: list[Sample] = []
    skipped: list[tuple[str, str]] = []
    while shuffled and len(usable) < count:
        missing = count - len(usable)
        good, bad = find_readable(shuffled[:missing], known=known)
        usable, skipped, shuffled = usable + good, skipped + bad, shuffled[missing:]
    return usable, skipped


def _shuffled(samples: Sequence[T], seed: int, stream: int) -> list[T]:
    generator = np.random.Generator(np.random.PCG64((seed, stream)))
    return [samples[int(index)] for index in generator.permutation(len(samples))]
