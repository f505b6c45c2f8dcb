"""Given features in place of a backbone's: they pass neither a backbone nor the feature store."""

from dataclasses import replace
from hashlib import blake2b

import torch
from torch import Tensor

from squeeze_cli.backbones.base import FeatureOrigin
from squeeze_cli.console import Reporter
from squeeze_cli.data.arrays import FeatureSample, MapShape, check_features
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.sources import Listing
from squeeze_cli.features.datamodule import EVALUATION_VECTORS, FeatureBatches


class GivenFeatures(FeatureOrigin):
    """Origin of given features: their shape `(h, w, C)` and digest."""

    name = "features"
    digest = ""

    def __init__(self, shape: MapShape, digest: str = "") -> None:
        self.shape, self.digest = shape, digest
        self.grid, self.feature_dim = shape[:2], shape[2]
        self.inference_batch = max(1, EVALUATION_VECTORS // self.vectors_per_image)
        self.evaluation_images = self.inference_batch


def check_splits(listing: Listing, reporter: Reporter) -> tuple[GivenFeatures, Listing]:
    """Read all features once; return their origin, and the splits of samples with digests.

    Raises SqueezeError as `check_features` does.
    """
    splits = listing.named()
    samples = [s for split in splits.values() for s in split if isinstance(s, FeatureSample)]
    with reporter.track("Checking features", len(samples)) as advance:
        shape, digests = check_features(samples, advance)
    rows, columns, channels = shape
    if columns == channels != rows or rows > 3 * max(columns, channels):
        reporter.warn(
            f"The features are read as maps of {rows} x {columns} vectors with {channels} channels: if "
            "they are [C, h, w], transpose them to [h, w, C]."
        )
    found = iter([replace(s, content=digest) for s, digest in zip(samples, digests, strict=True)])
    checked = {name: [next(found) for _ in split] for name, split in splits.items()}
    # Sorted, so that the splits of another seed have the same digest.
    lines = sorted(f"{s.name}\0{digest}\n" for s, digest in zip(samples, digests, strict=True))
    content = blake2b("".join(lines).encode(), digest_size=8)
    return GivenFeatures(shape, content.hexdigest()), listing.with_splits(checked)


class GivenFeatureBatches(FeatureBatches):
    """Batches of given features; label planes are `[B, h, w]` zeros, because there is no padding."""

    def setup(self, stage: str = "") -> None:
        """Open the data sets of all splits."""
        del stage
        plane = torch.zeros(self.origin.grid, dtype=torch.uint8)
        self.open_datasets(_read, lambda _: plane)


def _read(sample: Sample) -> Tensor:
    assert isinstance(sample, FeatureSample)
    return sample.features()
