"""Making of a shard: from its images to the bytes of its file and its record.

The bytes depend on the run, the settings and the shard's own images only, and not on the number of
workers: batches start at the shard's first image, and each is computed with a single thread of torch,
because sums of several threads depend on their number.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from squeeze_cli.codec.manifest import Settings, ShardRecord, add_sums, record_of
from squeeze_cli.console import Advance, Reporter, no_advance
from squeeze_cli.data.arrays import FeatureSample, check_features, shape_text
from squeeze_cli.data.encoded import ImageFacts, ReadImage
from squeeze_cli.data.samples import Sample
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.prepare import (
    Ranks,
    ReadResult,
    Trunk,
    from_rows,
    in_threads,
    prepare_states,
    read_sample,
    require_finite,
)
from squeeze_cli.inference.output_folder import Array, encode_embeddings
from squeeze_cli.inference.plan import Shard, digest_of, stamps_of
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.training.metrics import ReconstructionMetrics

# Origin of the states of images: the backbone, the feature store, or given features.
Origin = Literal["images", "store", "features"]


@dataclass(frozen=True)
class Job:
    """Picklable description of an extraction for the processes that make shards.

    Attributes:
        run: The run's folder.
        values: Values in place of those of its configuration, by `section.field`.
        settings: Settings of all shards.
        count: Number of shards.
        origin: Origin of states.
        threads: Number of threads that compute, and of threads that decode images.
    """

    run: Path
    values: Mapping[str, object]
    settings: Settings
    count: int
    origin: Origin
    threads: int

    def open(self) -> "ShardMaker":
        """Open the run, and return the maker of its shards."""
        return ShardMaker(self, TrainedRun(self.run, self.values, self.settings.levels))


class Written(NamedTuple):
    """Part of a shard: names and values of a batch, and sums for its distortion."""

    names: list[str]
    values: Array
    sums: dict[str, float]


@dataclass
class ShardMaker:
    """Maker of shards of an opened run; `reporter` shows the progress of the feature store."""

    job: Job
    run: TrainedRun
    reporter: Reporter = field(default_factory=lambda: Reporter(quiet=True))

    @cached_property
    def trunk(self) -> Trunk:
        """The frozen part of the backbone."""
        return self.run.trunk(self.job.threads)

    def extract_shard(
        self, shard: Shard, advance: Advance = no_advance
    ) -> tuple[bytes, ShardRecord]:
        """Return the bytes of a shard's file, empty if no image can be read, and its record.

        Images that cannot be read are left out and recorded. `advance` is called for all images. Raises
        SqueezeError if features are not finite or do not fit the run.
        """
        stamps = stamps_of(shard.samples)
        digests: list[str] = []
        skipped: list[dict[Literal["name", "reason"], str]] = []

        def readable() -> Iterator[ReadResult]:
            for result in self._results(shard.samples):
                facts = result.sample.facts
                digests.append(f"{result.sample.name}\0{facts.digest if facts else ''}")
                if result.reason:
                    skipped.append({"name": result.sample.name, "reason": result.reason})
                    advance(1, "")
                else:
                    yield result

        written: list[Written] = []
        origin = self.run.given if self.job.origin == "features" else self.run.backbone
        for batch in self._computed(_batches(readable(), origin.inference_batch)):
            written.append(batch)
            advance(len(batch.names), "")
        names = [name for batch in written for name in batch.names]
        content = self._encode(np.concatenate([b.values for b in written]), names) if names else b""
        record = record_of(
            self.job.settings, shard.number, self.job.count, content, len(names), skipped=skipped,
            sums=add_sums(b.sums for b in written), contents=digest_of(digests), stamps=stamps,
        )  # fmt: skip
        return content, record

    def _results(self, samples: Sequence[Sample]) -> Iterator[ReadResult]:
        """Yield each sample with its facts, and with pixels or features."""
        if self.job.origin == "features":
            yield from self._given(samples)
        elif self.job.origin == "images":

            def decode(image: ReadImage) -> Tensor:
                return self.trunk.preprocessing.pixels(image.decode())

            yield from in_threads(lambda each: read_sample(each, decode), samples, self.job.threads)
        else:
            store = self.run.store
            assert store is not None
            silent = replace(self.reporter, progress=False)  # all shards share a progress bar
            results, states = prepare_states(samples, self.trunk, store, silent, Ranks())
            for result in results:
                if not result.reason:
                    state = torch.from_numpy(states[result.sample.known().digest])
                    result = result._replace(pixels=state)
                yield result

    def _given(self, samples: Sequence[Sample]) -> Iterator[ReadResult]:
        """Yield given features; raises SqueezeError if they do not fit the run."""
        features = [each for each in samples if isinstance(each, FeatureSample)]
        shape, digests = check_features(features, no_advance)
        expected = self.run.given.shape
        if shape != expected:
            raise SqueezeError(
                f"The features in {features[0].path} are {shape_text(shape)} each, and those that "
                f"{self.run.folder.path} was trained on {shape_text(expected)}: give features of the "
                "same backbone."
            )
        for sample, digest in zip(features, digests, strict=True):
            facts = ImageFacts(digest, (shape[1], shape[0]))
            yield ReadResult(replace(sample, facts=facts), None, sample.features())

    def _computed(self, batches: Iterable[list[ReadResult]]) -> Iterator[Written]:
        """Compute batches in threads, in order."""
        if self.job.origin != "features":
            _ = self.trunk.network  # built and moved once, before several threads use it
        threads = self.job.threads if self.run.device.type == "cpu" else 1
        before = torch.get_num_threads()
        one_each, rest = partial(torch.set_num_threads, 1), iter(batches)
        try:
            # The first batch is computed alone, because some networks cache results then.
            yield from in_threads(self._compute, islice(rest, 1), 1, 0, one_each)
            yield from in_threads(self._compute, rest, threads, threads, one_each)
        finally:
            torch.set_num_threads(before)  # new threads inherit the number that was set last

    @torch.no_grad()
    def _compute(self, batch: list[ReadResult]) -> Written:
        """Return the part of the shard that a batch becomes.

        The distortion is computed on normalized features, the quantizer's input, without padding.
        """
        run, content = self.run, self.job.settings.content
        samples = [result.sample for result in batch]
        names = [sample.name for sample in samples]
        rows = torch.stack([result.pixels for result in batch if result.pixels is not None])
        rows = rows.to(run.device)
        images = self.job.origin == "images"
        state = self.trunk.states(rows) if images else from_rows(rows.float())
        require_finite(state, names)
        if content == "features" and run.space == "backbone":
            return Written(names, run.network.last_layer(state).float().cpu().numpy(), {})
        maps = run.network.features(state)
        if content == "features" or not run.code_sizes:
            return Written(names, run.to_output(maps).float().cpu().numpy(), {})
        codes = run.codes(maps)
        decoded = run.features(codes)
        metric = ReconstructionMetrics().to(run.device)
        counted = torch.ones_like(maps[:, 0], dtype=torch.bool)
        if self.job.origin != "features":
            counted = self.trunk.counted(samples, maps.shape[-2:])
        metric.update(maps, decoded, counted)
        sums = {
            each: float(getattr(metric, each)) for each in ("squared_error", "cosine", "vectors")
        }
        if content == "codes":
            return Written(names, codes, sums)
        return Written(names, run.to_output(decoded).float().cpu().numpy(), sums)

    def _encode(self, values: Array, names: Sequence[str]) -> bytes:
        if self.job.settings.content != "codes":
            return encode_embeddings(values, names)
        codes = values.astype(np.int32, copy=False)
        return self.run.encode(codes, names, self.job.settings.coding or "packed")


def contents_of(samples: Iterable[Sample], threads: int) -> str:
    """Read images, and return the digest of their contents as in a record."""
    return digest_of(in_threads(lambda s: f"{s.name}\0{s.fingerprint()}", samples, threads))


def _batches(results: Iterator[ReadResult], size: int) -> Iterator[list[ReadResult]]:
    while batch := list(islice(results, size)):
        yield batch
