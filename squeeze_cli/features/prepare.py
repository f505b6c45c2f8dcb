"""From samples to states: look in the store, run the backbone for what is missing, check, load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from squeeze_cli.backbones.frozen import FrozenBackbone
from squeeze_cli.console import Reporter
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.extraction import extract_states
from squeeze_cli.features.store import FeatureStore, check_free_space
from squeeze_cli.features.table import StateDataset, check_rows, fits_in_memory, row_bytes

# A shard is written when it holds this much: small enough to lose little, large enough to read well.
SHARD_BYTES = 64 * 2**20


def prepare_states(
    splits: Mapping[str, Sequence[Sample]],
    backbone: FrozenBackbone,
    preprocessing: Preprocessing,
    store: FeatureStore,
    *,
    device: torch.device,
    num_workers: int,
    reporter: Reporter,
) -> dict[str, StateDataset]:
    """States of every split, each image through the backbone at most once, ever.

    Raises SqueezeError where the disk has no room or the backbone's weights are no good.
    """
    store.refresh()  # others may have filled it meanwhile
    samples = [sample for split in splits.values() for sample in split]
    digests = _digests(samples)
    in_memory = False
    for _ in range(3):  # damaged rows are found when they are read, and made again
        missing = store.missing(digests)
        _report_damage(store, reporter)
        if missing:
            reporter.say(f"Computing features of {len(missing)} images (kept for later runs).")
            _fill(store, [samples[i] for i in missing], [digests[i] for i in missing],
                  backbone, preprocessing, device, num_workers, reporter)  # fmt: skip
            store.refresh()
            if store.missing(digests):  # somebody cleared the store meanwhile
                continue
        total = sum(row_bytes(store.row(digest)) for digest in digests)
        in_memory = fits_in_memory(total)
        if in_memory:
            check_rows(store, digests)
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
        name: StateDataset([store.row(next(found)) for _ in split], in_memory)
        for name, split in splits.items()
    }


def _digests(samples: Sequence[Sample]) -> list[str]:
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        return list(pool.map(lambda sample: sample.digest(), samples))


def _report_damage(store: FeatureStore, reporter: Reporter) -> None:
    for reason in store.damage:
        reporter.warn(f"A part of the feature store was damaged ({reason}); it is made again.")
    store.damage.clear()


def _fill(
    store: FeatureStore,
    samples: Sequence[Sample],
    digests: Sequence[str],
    backbone: FrozenBackbone,
    preprocessing: Preprocessing,
    device: torch.device,
    num_workers: int,
    reporter: Reporter,
) -> None:
    held: list[tuple[list[int], np.ndarray, np.ndarray]] = []
    held_bytes = 0
    checked = False

    def flush() -> None:
        nonlocal held, held_bytes
        positions = [p for batch, _, _ in held for p in batch]
        states = np.concatenate([s for _, s, _ in held])
        masks = np.concatenate([m for _, _, m in held])
        store.add([digests[p] for p in positions], states, masks)
        held, held_bytes = [], 0

    with reporter.track("Features", len(samples)) as advance:
        for batch in extract_states(
            backbone.network, samples, preprocessing,
            layer=store.key.layer, device=device, precision=store.key.precision,
            num_workers=num_workers,
        ):  # fmt: skip
            if not checked:
                per_image = (batch[1].nbytes + batch[2].nbytes) / len(batch[0])
                check_free_space(store.folder, int(per_image * len(samples)))
                checked = True
            held.append(batch)
            held_bytes += batch[1].nbytes + batch[2].nbytes
            if held_bytes >= SHARD_BYTES:
                flush()
            advance(len(batch[0]), "")
        if held:
            flush()
