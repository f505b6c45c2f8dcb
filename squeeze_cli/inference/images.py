"""Images to extract from, in order: a split of the run's data, or all images in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from squeeze_cli.console import Reporter
from squeeze_cli.data.samples import Sample, find_readable, list_images
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.extraction import from_rows
from squeeze_cli.features.sources import make_trunk
from squeeze_cli.inference.trained_run import TrainedRun

ALL_SPLITS = ("train", "val", "test")
# Skipped images that are named one by one.
MOST_NAMED = 5
StateBatches = Iterator[tuple[list[str], Tensor]]


@dataclass(frozen=True)
class ImageSeries:
    """Images in order, and the way to their states.

    Attributes:
        source: Description of where they come from.
        samples: The images.
        kept: Whether their states are kept in the run's feature store.
    """

    source: str
    samples: Sequence[Sample]
    kept: bool

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of all names and contents, in order."""
        content = blake2b(digest_size=8)
        for sample in self.samples:
            content.update(f"{sample.name}\0{sample.digest()}\0".encode())
        return content.hexdigest()

    def states(self, run: TrainedRun, begin: int, reporter: Reporter) -> StateBatches:
        """Yield (names, states on the run's device) in batches, from the image `begin` on."""
        rest = self.samples[begin:]
        if not rest:
            return
        batches = _stored_states(run, rest, reporter) if self.kept else _computed_states(run, rest)
        for positions, states in batches:
            yield [rest[position].name for position in positions], states


def split_images(run: TrainedRun, split: str, reporter: Reporter) -> ImageSeries:
    """Return the images of a split of the run's data, or of `all` splits."""
    splits = run.splits(reporter)
    names = ALL_SPLITS if split == "all" else (split,)
    samples = [sample for name in names for sample in getattr(splits, name)]
    return ImageSeries(f"split {split}", samples, kept=True)


def folder_images(folder: Path, reporter: Reporter) -> ImageSeries:
    """Return all readable images in a folder and below; raises SqueezeError where none is."""
    samples, skipped = find_readable(list_images(folder))
    for name, reason in skipped[:MOST_NAMED]:
        reporter.warn(f"Skipped {name}: {reason}")
    if len(skipped) > MOST_NAMED:
        reporter.warn(f"Skipped {len(skipped)} images in all.")
    if not samples:
        raise SqueezeError(f"No image in {folder} can be read.")
    return ImageSeries("images", samples, kept=False)


def _stored_states(
    run: TrainedRun, samples: Sequence[Sample], reporter: Reporter
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield states from the feature store, which keeps them for later."""
    data = run.data({"images": samples}, reporter)
    for states, _, positions in data.batches("images", run.backbone.inference_batch):
        yield positions.tolist(), states


def _computed_states(
    run: TrainedRun, samples: Sequence[Sample]
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield states straight from the backbone; nothing is kept."""
    trunk = make_trunk(run.config, run.backbone, run.device)
    for positions, rows, _ in trunk.extract(samples):
        yield positions, from_rows(torch.from_numpy(rows)).to(run.device)
