"""Computation of states: each image is read once, and passes the trunk if the store lacks its state."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from operator import methodcaller
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.backbones.fusing import fuse_batch_norms
from squeeze_cli.console import Reporter
from squeeze_cli.data.encoded import ReadImage
from squeeze_cli.data.images import label_plane
from squeeze_cli.data.reading import UnreadableImageError
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing, counted_vectors
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.store import FeatureStore, States, check_free_space

T = TypeVar("T")
R = TypeVar("R")

# Size at which a shard is written: an interruption loses little, and reading stays efficient.
SHARD_BYTES = 64 * 2**20
# Largest fraction of the free memory for the states and classes of all splits together.
MEMORY_SHARE = 0.5
# Number of images that are decoded ahead of the trunk, so that it does not wait.
AHEAD = 24


@dataclass(frozen=True)
class Trunk:
    """The frozen part of a backbone, with layer, preprocessing, device and precision.

    `layer` is `trunk` (all but the last layer), or names the output of the whole network; `precision` is
    `32` or `bf16` (autocast); `fused` merges batch normalizations into the convolutions before them. The
    network is built at its first use; `num_workers` images are decoded at once.
    """

    backbone: FrozenBackbone
    layer: str
    preprocessing: Preprocessing
    device: torch.device
    precision: str = "32"
    num_workers: int = 0
    fused: bool = True

    @cached_property
    def network(self) -> nn.Module:
        """The part up to `layer` on the device; one thread must access it first, then several may."""
        network: nn.Module = self.backbone.network
        if self.layer == "trunk":  # the last layer is trained, and may be on another device
            network = self.backbone.network.trunk
        if self.fused:
            generator = torch.Generator().manual_seed(0)
            example = torch.randn(1, 3, *self.preprocessing.size_px, generator=generator)
            network = fuse_batch_norms(network, example)
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def states(self, pixels: Tensor) -> Tensor:
        """Return the states, float32, of pixels `[B, H, W, 3]` uint8 on the device: maps or tokens."""
        network = self.network
        images = self.preprocessing.normalize(pixels)
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16"),
            # By default cuDNN rounds the inputs of float32 convolutions to 11 bits (TF32).
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            return network(images).float()  # type: ignore[no-any-return]

    def rows(self, pixels: Tensor) -> NDArray[np.float32]:
        """Return the states of pixels `[B, H, W, 3]` uint8 in their stored form, channels last."""
        states = self.states(pixels.to(self.device))
        rows = states.permute(0, 2, 3, 1) if states.dim() == 4 else states
        return rows.cpu().contiguous().numpy()

    def counted(self, samples: Sequence[Sample], grid: tuple[int, int] | torch.Size) -> Tensor:
        """Return which vectors of images with known facts are no padding, `[B, h, w]` bool."""
        if self.preprocessing.fit != "pad":
            return torch.ones(len(samples), *grid, dtype=torch.bool, device=self.device)
        planes = [label_plane(replace(each, labels=None), self.preprocessing) for each in samples]
        return counted_vectors(torch.stack(planes), grid).to(self.device)


def from_rows(rows: Tensor) -> Tensor:
    """Return stored rows as states: maps `[B, h, w, C]` become `[B, C, h, w]`, tokens are unchanged."""
    return rows.permute(0, 3, 1, 2) if rows.dim() == 4 else rows


@dataclass(frozen=True)
class Ranks:
    """The processes of a training: rank of this process, number of processes, and barrier.

    `agree` waits for all processes and returns whether they passed the same value.
    """

    rank: int = 0
    count: int = 1
    barrier: Callable[[], None] = lambda: None
    agree: Callable[[object], bool] = lambda value: True


class ReadResult(NamedTuple):
    """Result of reading a sample: the sample with its facts, or the reason why it is skipped.

    `pixels` is set if the sample's state must be computed.
    """

    sample: Sample
    reason: str | None = None
    pixels: Tensor | None = None


def check_image(sample: Sample) -> ReadResult:
    """Read an image and check that it can be decoded."""
    return read_sample(sample, methodcaller("check"))


def check_images(samples: Sequence[Sample], trunk: Trunk, reporter: Reporter) -> list[ReadResult]:
    """Read all images and find the broken ones, without a store and without a backbone."""
    with reporter.track("Images", len(samples)) as advance:
        results = []
        for result in in_threads(check_image, samples, trunk.num_workers):
            results.append(result)
            advance(1, "")
    return results


def prepare_states(
    samples: Sequence[Sample], trunk: Trunk, store: FeatureStore, reporter: Reporter, ranks: Ranks
) -> tuple[list[ReadResult], States]:
    """Read each image once, and compute the states that the store lacks.

    Each of several ranks reads all images and computes its share of the missing states, and all wait for
    one another; an image that one rank finds broken is broken for all.

    Returns:
        A result per sample, and all states by digest: a dictionary if they fit in memory, else the store.

    Raises SqueezeError where the disk is full or the backbone's features are not finite.
    """
    results: dict[int, ReadResult] = {}
    todo: Sequence[int] = range(len(samples))
    for attempt in range(4):  # shards may be damaged or cleared, images broken for another rank
        share = ranks if attempt == 0 else Ranks()
        read = _fill([samples[i] for i in todo], trunk, store, reporter, share)
        results |= zip(todo, read, strict=True)
        if attempt == 0:
            ranks.barrier()
        store.refresh()
        digests = {i: each.sample.known().digest for i, each in results.items() if not each.reason}
        states: States = store
        wanted = set(digests.values())
        planes_bytes = len(samples) * prod(trunk.preprocessing.size_px)
        if wanted <= store.digests and fits_in_memory(store.stored_bytes(wanted) + planes_bytes):
            states = {digest: row for digest in wanted if (row := store.read(digest)) is not None}
        for reason in store.damage:
            reporter.warn(f"A part of the feature store was damaged ({reason}); it is made again.")
        store.damage.clear()
        todo = [i for i, digest in digests.items() if digest not in store.digests]
        if not todo:
            store.mark_used()
            return [results[i] for i in range(len(samples))], states
    raise SqueezeError(
        f"The feature store in {store.folder} is damaged as soon as it is written: check the disk, "
        "take another --cache-dir, or --no-cache."
    )


def require_finite(states: Tensor, names: Sequence[str]) -> None:
    """Raise SqueezeError, with the name of an image, unless all states `[B, ...]` are finite."""
    if states.sum().isfinite():  # a sum with NaN or infinity is not finite
        return
    finite = torch.isfinite(states).flatten(1).all(dim=1).tolist()
    broken = [name for name, whole in zip(names, finite, strict=True) if not whole]
    if broken:
        raise SqueezeError(
            f"The backbone's features of {broken[0]} are NaN or infinite ({len(broken)} of "
            f"{len(names)} images): check --weights, or take --precision 32."
        )


def fits_in_memory(needed_bytes: float) -> bool:
    """Return whether so many bytes are within `MEMORY_SHARE` of the memory that is free now."""
    import psutil

    return bool(needed_bytes < MEMORY_SHARE * psutil.virtual_memory().available)


def _fill(
    samples: Sequence[Sample], trunk: Trunk, store: FeatureStore, reporter: Reporter, ranks: Ranks
) -> list[ReadResult]:
    """Read samples; compute the missing states of this rank's share, and store them in shards."""
    batch_size = trunk.backbone.inference_batch
    known = set(store.digests)

    def read(numbered: tuple[int, Sample]) -> ReadResult:
        mine = numbered[0] // batch_size % ranks.count == ranks.rank

        def decode(image: ReadImage) -> Tensor | None:
            if not mine or image.facts.digest in known:
                return None
            known.add(image.facts.digest)  # a copy of the image needs no second state
            return trunk.preprocessing.pixels(image.decode())

        return read_sample(numbered[1], decode)

    results: list[ReadResult] = []
    batch: list[ReadResult] = []
    shard: list[tuple[str, NDArray[np.float32]]] = []
    computed, shard_bytes, unseen = 0, 0, set(known)
    with reporter.track("Images", len(samples)) as advance:
        for found in in_threads(read, enumerate(samples), trunk.num_workers):
            results.append(ReadResult(found.sample, found.reason))
            advance(1, "")
            if not found.reason:
                unseen.discard(found.sample.known().digest)
            if found.pixels is not None:
                batch.append(found)
            last = len(results) == len(samples)
            if batch and (last or len(batch) == batch_size):
                rows = trunk.rows(
                    torch.stack([each.pixels for each in batch if each.pixels is not None])
                )
                require_finite(torch.from_numpy(rows), [each.sample.name for each in batch])
                shard += zip((each.sample.known().digest for each in batch), rows, strict=True)
                shard_bytes += rows.nbytes
                computed, batch = computed + len(batch), []
            if shard and (last or shard_bytes >= SHARD_BYTES):
                # Stored images that were not read so far are among the rest, and need no room.
                rest = max(0, len(samples) - len(results) - len(unseen)) // ranks.count
                check_free_space(store.folder, shard[0][1].nbytes * (len(shard) + rest))
                store.add([digest for digest, _ in shard], np.stack([row for _, row in shard]))
                shard, shard_bytes = [], 0
    if computed:
        reporter.say(f"Computed features of {computed} images (kept for later runs).")
    return results


def read_sample(sample: Sample, use: Callable[[ReadImage], Tensor | None]) -> ReadResult:
    """Read a sample and call `use` with its image, which may decode it; set the facts of the sample."""
    try:
        image = sample.read()
        sample = replace(sample, facts=image.facts)
        return ReadResult(sample, None, use(image))
    except UnreadableImageError as error:
        return ReadResult(sample, str(error))


def in_threads(
    function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int | None = None,
    initializer: Callable[[], None] | None = None,
) -> Iterator[R]:  # fmt: skip
    """Map in order, in threads that call `initializer` first; `ahead` (`AHEAD`) results may wait."""
    with ThreadPoolExecutor(max(threads, 1), initializer=initializer) as pool:
        begun: deque[Future[R]] = deque()
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > (AHEAD if ahead is None else ahead):
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
