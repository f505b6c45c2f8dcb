"""States of images in order, a batch at a time: of a run's split, or of any folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from squeeze_cli.console import Reporter
from squeeze_cli.data.samples import Sample, find_readable, list_images
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.extraction import extract_states, from_rows
from squeeze_cli.features.sources import open_sources
from squeeze_cli.inference.evaluate import TrainedRun
from squeeze_cli.training.devices import choose_workers
from squeeze_cli.training.fit import load_splits

ALL_SPLITS = ("train", "val", "test")
StateBatches = Iterator[tuple[list[str], Tensor]]


@dataclass(frozen=True)
class ImageStream:
    """Images and a way to their states.

    Attributes:
        source: what they are, in words.
        samples: all images, in order.
        states: from the image at a position on, batches of (names, states on the device).
    """

    source: str
    samples: Sequence[Sample]
    states: Callable[[int], StateBatches]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all images, in order."""
        return tuple(sample.name for sample in self.samples)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of all names and contents, in order."""
        content = blake2b(digest_size=8)
        for sample in self.samples:
            content.update(f"{sample.name}\0{sample.digest()}\0".encode())
        return content.hexdigest()


def split_stream(
    run: TrainedRun, split: str, device: torch.device, reporter: Reporter
) -> ImageStream:
    """A split of the run's data, or `all` of them, through the feature store."""
    splits = load_splits(run.config, run.store, reporter)
    samples = [
        s for name in (ALL_SPLITS if split == "all" else (split,)) for s in getattr(splits, name)
    ]

    def states(begin: int) -> StateBatches:
        rest = samples[begin:]
        if not rest:
            return
        sources = open_sources(run.config, {split: rest}, run.backbone, run.store, device, reporter)
        for inputs, _, positions in sources.loader(split, run.backbone.inference_batch):
            batch = inputs.to(device)
            state = batch if sources.trunk is None else sources.trunk(batch)
            yield [rest[i].name for i in positions.tolist()], state

    return ImageStream(f"split {split}", samples, states)


def folder_stream(
    run: TrainedRun, folder: Path, device: torch.device, reporter: Reporter
) -> ImageStream:
    """All images in a folder and below, straight through the backbone: nothing of them is kept."""
    listed: Sequence[Sample] = list_images(folder)
    samples, skipped = find_readable(listed)
    for name, reason in skipped[:5]:
        reporter.warn(f"Skipped {name}: {reason}")
    if len(skipped) > 5:
        reporter.warn(f"Skipped {len(skipped)} images in all.")
    if not samples:
        raise SqueezeError(f"No image in {folder} can be read.")

    def states(begin: int) -> StateBatches:
        rest = samples[begin:]
        if not rest:
            return
        for positions, rows, _ in extract_states(
            run.backbone.network, rest, Preprocessing(run.config.data.image_size),
            layer="trunk" if run.config.model.unfreeze_last_layer else "features",
            device=device, precision=run.config.training.precision,
            num_workers=choose_workers(run.config.data.num_workers),
        ):  # fmt: skip
            yield [rest[i].name for i in positions], from_rows(torch.from_numpy(rows)).to(device)

    return ImageStream("images", samples, states)
