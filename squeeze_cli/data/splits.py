"""Splits of a data set: samples for training, validation and test, with the classes of their masks."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from squeeze_cli.config.classes import ignored_values
from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.labels import LabelledMasks, detect_classes, label_masks
from squeeze_cli.data.masks import Mask
from squeeze_cli.data.reading import UnreadableImageError
from squeeze_cli.data.samples import FileSample, Sample
from squeeze_cli.data.sources import Listing, open_source
from squeeze_cli.errors import SqueezeError

# Fraction of the images that are not for the test.
VAL_FRACTION = 0.2
# Fraction of all images, where the data set has no test split.
TEST_FRACTION = 0.2

# Random streams of the seed: a subset must not be chosen by the shuffle that splits it later.
_SPLIT_STREAM, _SUBSET_STREAM, _TEST_STREAM = 0, 1, 2


def choose_samples(config: DataConfig, seed: int) -> Listing:
    """List the samples of a data set, each in one split, and choose a subset of them by the seed.

    The seed also draws the test split of a data set without one. Missing data are downloaded; images
    and masks are not read. Raises SqueezeError where data are missing.
    """
    listing = _without_repetitions(open_source(config).listing())
    if not listing.test and len(listing.train) > 1:
        train, test = _split_off(listing.train, TEST_FRACTION, seed, _TEST_STREAM)
        listing = listing.with_splits({"train": train, "test": test})
    if config.subset_size is None:
        return listing
    return listing.with_splits({
        name: _shuffled(samples, seed, _SUBSET_STREAM)[: config.subset_size]
        for name, samples in listing.named().items()
    })  # fmt: skip


def label_samples(config: DataConfig, listing: Listing) -> tuple[Listing, LabelledMasks]:
    """Read each mask once, in threads; return the samples with the classes of their masks, and the masks.

    Samples whose masks cannot be read are skipped. The table of classes comes from the configuration or
    the data set, or is detected. Raises SqueezeError, one line, for masks with other values.
    """
    source = open_source(config)
    samples = [*listing.train, *listing.val, *listing.test]
    with ThreadPoolExecutor() as pool:  # decoding and compressing release the GIL
        read = list(zip(samples, pool.map(_read_mask, samples), strict=True))
    found = [(sample, mask) for sample, mask in read if isinstance(mask, Mask)]
    skipped = [(sample.name, str(e)) for sample, e in read if isinstance(e, UnreadableImageError)]
    if not found:
        raise _too_few(Listing((), skipped=(*listing.skipped, *skipped)), config.place)
    table = config.classes or source.classes
    if table is None:
        table = detect_classes((mask for _, mask in found), ignored_values(config.ignore_index))
    named = [(str(getattr(sample, "mask_path", sample.name)), mask) for sample, mask in found]
    masks = label_masks(named, table, source.stray_share, source.fix)
    kept = {
        _place(sample): replace(sample, labels=labels)
        for (sample, _), labels in zip(found, masks.labels, strict=True)
    }
    splits = {
        name: [kept[place] for place in map(_place, part) if place in kept]
        for name, part in listing.named().items()
    }
    return listing.with_splits(splits, skipped), masks


def complete_splits(listing: Listing, place: str, seed: int) -> Listing:
    """Draw the validation samples by the seed where none are listed; no image is read.

    Raises SqueezeError, which names the `place`, if there are too few samples.
    """
    if not listing.test or len(listing.train) + len(listing.val) < 2 or not listing.train:
        raise _too_few(listing, place)
    if listing.val:
        return listing
    train, val = _split_off(listing.train, VAL_FRACTION, seed, _SPLIT_STREAM)
    return listing.with_splits({"train": train, "val": val})


def _too_few(listing: Listing, place: str) -> SqueezeError:
    examples = [f" For example, {name} is skipped: {why}" for name, why in listing.skipped[:1]]
    return SqueezeError(
        f"Too few images of {place} can be read ({len(listing.train) + len(listing.val)} for training, "
        f"{len(listing.test)} for the test): provide 2 or more to train on and 1 or more for the test."
        f"{''.join(examples)}"
    )


def _place(sample: Sample) -> object:
    """Return a key that is equal for two samples of the same image only."""
    return sample.image_path.resolve() if isinstance(sample, FileSample) else sample


def _read_mask(sample: Sample) -> Mask | UnreadableImageError | None:
    try:
        return sample.read_mask()
    except UnreadableImageError as error:
        return error


def _without_repetitions(listing: Listing) -> Listing:
    """Remove repeated images, and the test images from the other splits.

    Where too few images would be left to train on, the test split is emptied instead, and the seed draws
    another one.
    """
    named = listing.named()
    splits = {name: {_place(each): each for each in part} for name, part in named.items()}
    warnings = []
    if twice := sum(len(part) - len(splits[name]) for name, part in named.items()):
        warnings.append(f"{twice} images are listed more than once; each counts once.")
    train, val, test = splits.values()
    learnt = train.keys() | val.keys()
    if shared := learnt & test.keys():
        many = f"{len(shared)} images are both in the test split and among those to train on"
        if len(learnt - shared) < 2:
            warnings.append(f"{many}: the seed draws another test split.")
            test.clear()
        else:
            warnings.append(f"{many}; they are used for the test only.")
            for place in shared:
                train.pop(place, None)
                val.pop(place, None)
    if shared := train.keys() & val.keys():
        warnings.append(f"{len(shared)} images are in both train and val; they count in val only.")
        for place in shared:
            del train[place]
    kept = {name: part.values() for name, part in splits.items()}
    return listing.with_splits(kept, warnings=warnings)


def _split_off(
    samples: Sequence[Sample], fraction: float, seed: int, stream: int
) -> tuple[list[Sample], list[Sample]]:
    """Shuffle samples, equally on every machine; return the rest, and a fraction, at least one."""
    shuffled = _shuffled(samples, seed, stream)
    count = max(round(len(samples) * fraction), 1)
    return shuffled[count:], shuffled[:count]


def _shuffled(samples: Sequence[Sample], seed: int, stream: int) -> list[Sample]:
    generator = np.random.Generator(np.random.PCG64((seed, stream)))
    return [samples[int(index)] for index in generator.permutation(len(samples))]
