"""From samples to states: what the store lacks passes the frozen trunk, then all is loaded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.console import Reporter
from squeeze_cli.data.images import ImageDataset, Item
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.shards import StoredArrays
from squeeze_cli.features.store import FeatureStore, check_free_space

# A shard is written when it holds this much: small enough to lose little, large enough to read well.
SHARD_BYTES = 64 * 2**20
# Share of the free memory that the states of all splits together may take.
MEMORY_SHARE = 0.5

States = tuple[list[int], NDArray[np.float32], NDArray[np.uint8]]


@dataclass(frozen=True)
class Trunk:
    """The frozen part of a backbone, with all that decides how an image passes it.

    `layer` is `features` (the whole backbone) or `trunk` (all but its last layer), `precision` is
    `32` or `bf16` (autocast). The network is built when the first image comes; `num_workers`
    processes decode images.
    """

    backbone: FrozenBackbone
    layer: str
    preprocessing: Preprocessing
    device: torch.device
    precision: str = "32"
    num_workers: int = 0

    def states(self, pixels: Tensor) -> Tensor:
        """Return the states, float32, of pixels `[B, H, W, 3]` uint8 on the device: maps or tokens."""
        network = self.backbone.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = self.preprocessing.normalize(pixels)
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16"),
            # cuDNN's convolutions of float32 keep 11 bits of it unless told otherwise.
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            run = network.trunk if self.layer == "trunk" else network
            return run(images).float()  # type: ignore[no-any-return]

    def extract(self, samples: Sequence[Sample]) -> Iterator[States]:
        """Yield (positions in `samples`, states as rows float32, masks `[B, H, W]` uint8)."""
        loader: DataLoader[Item] = DataLoader(
            ImageDataset(samples, self.preprocessing),
            batch_size=self.backbone.inference_batch,
            num_workers=min(self.num_workers, len(samples)),
            pin_memory=self.device.type == "cuda",
        )
        for pixels, masks, positions in loader:
            states = self.states(pixels.to(self.device, non_blocking=True))
            rows = states.permute(0, 2, 3, 1) if states.dim() == 4 else states
            yield positions.tolist(), rows.cpu().contiguous().numpy(), masks.numpy()


def from_rows(rows: Tensor) -> Tensor:
    """Return stored rows as states: maps `[B, h, w, C]` become `[B, C, h, w]`, tokens stay."""
    return rows.permute(0, 3, 1, 2) if rows.dim() == 4 else rows


@dataclass(frozen=True)
class Ranks:
    """The processes that train together: this one's rank, their number, and their barrier."""

    rank: int = 0
    count: int = 1
    barrier: Callable[[], None] = lambda: None


@dataclass(frozen=True, eq=False)
class StateDataset(Dataset[Item]):
    """Stored states and masks by position, held in memory or read from the store when asked for.

    `dataset[i]` gives the state and mask of `FeatureStore.read`, and i itself. Raises SqueezeError
    if they are not held and were damaged since the store was opened.
    """

    store: FeatureStore
    digests: Sequence[str]
    held: Mapping[str, StoredArrays]

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, position: int) -> Item:
        digest = self.digests[position]
        found = self.held.get(digest) or self.store.read(digest)
        if found is None:
            raise SqueezeError(
                f"The feature store was damaged ({self.store.damage[-1]}); the damaged part is "
                "removed: run the same command again."
            )
        state, mask = found
        return torch.from_numpy(state), torch.from_numpy(mask), position


def prepare_states(
    splits: Mapping[str, Sequence[Sample]],
    trunk: Trunk,
    store: FeatureStore,
    reporter: Reporter,
    ranks: Ranks,
) -> dict[str, StateDataset]:
    """Return the states of every split; each image passes the backbone at most once, ever.

    With several ranks each computes its share of what is missing, and all wait for one another.

    Raises SqueezeError where the disk has no room or the backbone's weights are no good.
    """
    samples = [sample for split in splits.values() for sample in split]
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        digests = list(pool.map(lambda sample: sample.digest(), samples))
    for attempt in range(4):  # damaged rows are found when they are read, and made again
        store.refresh()  # others may have filled it meanwhile
        missing = store.missing(digests)
        for reason in store.damage:
            reporter.warn(f"A part of the feature store was damaged ({reason}); it is made again.")
        store.damage.clear()
        if attempt == 0:
            ranks.barrier()  # all have seen the same rows missing
            missing = missing[ranks.rank :: ranks.count]
        if missing:
            _fill(store, {digests[i]: samples[i] for i in missing}, trunk, reporter)
        if attempt == 0:
            ranks.barrier()
        store.refresh()
        if store.missing(digests):  # somebody cleared the store meanwhile
            continue
        held = {}
        if fits_in_memory(store.stored_bytes(set(digests))):
            held = {digest: row for digest in set(digests) if (row := store.read(digest))}
        if not store.missing(digests):
            break
    else:
        raise SqueezeError(
            f"The feature store in {store.folder} is damaged as soon as it is written: check the "
            "disk, take another --cache-dir, or --no-cache."
        )
    store.mark_used()
    found = iter(digests)
    return {
        name: StateDataset(store, [next(found) for _ in split], held)
        for name, split in splits.items()
    }


def fits_in_memory(needed_bytes: float) -> bool:
    """Whether so much may be held in memory, by what is free now."""
    import psutil

    return bool(needed_bytes < MEMORY_SHARE * psutil.virtual_memory().available)


def _fill(
    store: FeatureStore, samples: Mapping[str, Sample], trunk: Trunk, reporter: Reporter
) -> None:
    """Compute the states of samples, given by their digests, and write them shard by shard."""
    reporter.say(f"Computing features of {len(samples)} images (kept for later runs).")
    digests = list(samples)
    batches: list[States] = []
    done = held_bytes = 0
    with reporter.track("Features", len(samples)) as advance:
        for batch in trunk.extract(list(samples.values())):
            positions, states, masks = batch
            if not done:
                per_image = (states.nbytes + masks.nbytes) / len(positions)
                check_free_space(store.folder, per_image * len(samples))
            batches.append(batch)
            held_bytes += states.nbytes + masks.nbytes
            done += len(positions)
            advance(len(positions), "")
            if held_bytes >= SHARD_BYTES or done == len(samples):
                written, all_states, all_masks = zip(*batches, strict=True)
                names = [digests[position] for part in written for position in part]
                store.add(names, np.concatenate(all_states), np.concatenate(all_masks))
                batches, held_bytes = [], 0
