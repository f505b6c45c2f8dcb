"""Splits: the samples for training, validation and test."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import numpy as np

from squeeze_cli.data.drawn_pets import SyntheticPetSource
from squeeze_cli.data.oxford_pet import OxfordPetSource
from squeeze_cli.data.samples import DIGEST_BYTES, Sample, find_readable
from squeeze_cli.errors import SqueezeError, UsageError

T = TypeVar("T")

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


def split_train_val(
    samples: Sequence[T], seed: int, val_fraction: float = 0.2
) -> tuple[list[T], list[T]]:
    """Shuffle by the seed and split into training and validation, the same on every machine.

    Validation gets `val_fraction`, rounded to whole samples; each split gets at least one. Raises
    SqueezeError for fewer than two samples.
    """
    if len(samples) < 2:
        raise SqueezeError(
            f"{len(samples)} usable training image(s) cannot be split into training and "
            "validation: provide 2 or more (5 or more make sense)."
        )
    shuffled = _shuffled(samples, seed, _SPLIT_STREAM)
    val_count = min(max(round(len(samples) * val_fraction), 1), len(samples) - 1)
    return shuffled[val_count:], shuffled[:val_count]


def build_splits(
    dataset: str,
    data_dir: Path,
    image_size_px: int,
    seed: int,
    subset_size: int | None,
    known: Collection[str] = (),
) -> SplitSamples:
    """List the samples of a data set, leave out those that cannot be read, and split the rest.

    The official trainval list is split 80 to 20 into training and validation; the official test
    list serves for tests only.

    Args:
        dataset: 'oxford-pet' or 'synthetic'.
        data_dir: folder of the photographs, or to download them to; unused by 'synthetic'.
        image_size_px: size of the images that 'synthetic' draws; photographs keep their own.
        seed: seed for the choice of a subset and for the split, but not for synthetic images.
        subset_size: most usable samples to take from trainval and from test; None takes all.
        known: digests of samples that were decoded before; they are not decoded again.

    Raises:
        UsageError: an unknown data set.
        SqueezeError: the data are missing and cannot be downloaded, or too few can be read.
    """
    source = _create_source(dataset, data_dir, image_size_px)
    trainval, skipped = _choose_usable(source.samples("trainval"), seed, subset_size, known)
    test, skipped_test = _choose_usable(source.samples("test"), seed, subset_size, known)
    skipped += skipped_test
    if not test or len(trainval) < 2:
        example = f", e.g.: {skipped[0][1]}" if skipped else "."
        raise SqueezeError(
            f"Too few images of {dataset} can be read ({len(trainval)} for training, "
            f"{len(test)} for the test){example}"
        )
    train, val = split_train_val(trainval, seed)
    return SplitSamples(tuple(train), tuple(val), tuple(test), tuple(skipped))


def require_data(dataset: str, data_dir: Path, image_size_px: int) -> None:
    """Download missing data, or raise the error that `build_splits` would; this reads no image."""
    source = _create_source(dataset, data_dir, image_size_px)
    for split in ("trainval", "test"):
        source.samples(split)


def _create_source(
    dataset: str, data_dir: Path, image_size_px: int
) -> OxfordPetSource | SyntheticPetSource:
    if dataset == "oxford-pet":
        return OxfordPetSource(data_dir)
    if dataset == "synthetic":
        return SyntheticPetSource(image_size_px=image_size_px)
    raise UsageError(f"Unknown dataset {dataset!r}: choose one of oxford-pet, synthetic.")


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
