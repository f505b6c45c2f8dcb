"""From samples to states: look in the store, run the backbone for what is missing, check, load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from squeeze_cli.console import Reporter
from squeeze_cli.data.datamodule import Ranks
from squeeze_cli.data.samples import Sample
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.extraction import States, Trunk
from squeeze_cli.features.store import FeatureStore, check_free_space
from squeeze_cli.features.table import StateDataset, check_rows, fits_in_memory, row_bytes

# A shard is written when it holds this much: small enough to lose little, large enough to read well.
SHARD_BYTES = 64 * 2**20
ALONE = Ranks()


def prepare_states(
    splits: Mapping[str, Sequence[Sample]],
    trunk: Trunk,
    store: FeatureStore,
    reporter: Reporter,
    ranks: Ranks = ALONE,
) -> dict[str, StateDataset]:
    """States of every split; each image passes the backbone at most once, ever.

    With several ranks each computes its share of what is missing, and all wait for one another.

    Raises SqueezeError where the disk has no room or the backbone's weights are no good.
    """
    samples = [sample for split in splits.values() for sample in split]
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        digests = list(pool.map(lambda sample: sample.digest(), samples))
    in_memory = False
    for attempt in range(4):  # damaged rows are found when they are read, and made again
        store.refresh()  # others may have filled it meanwhile
        missing = store.missing(digests)
        _report_damage(store, reporter)
        together = attempt == 0 and ranks.count > 1
        if together:
            ranks.barrier()  # all have seen the same rows missing
            missing = missing[ranks.rank :: ranks.count]
        if missing:
            _fill(store, [samples[i] for i in missing], [digests[i] for i in missing],
                  trunk, reporter)  # fmt: skip
        if together:
            ranks.barrier()
        store.refresh()
        if store.missing(digests):  # somebody cleared the store meanwhile
            continue
        in_memory = fits_in_memory(sum(row_bytes(store.row(digest)) for digest in digests))
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


def _report_damage(store: FeatureStore, reporter: Reporter) -> None:
    for reason in store.damage:
        reporter.warn(f"A part of the feature store was damaged ({reason}); it is made again.")
    store.damage.clear()


def _fill(
    store: FeatureStore,
    samples: Sequence[Sample],
    digests: Sequence[str],
    trunk: Trunk,
    reporter: Reporter,
) -> None:
    """Compute the states of `samples` and write them, shard by shard."""
    reporter.say(f"Computing features of {len(samples)} images (kept for later runs).")
    held: list[States] = []
    held_bytes = written = 0
    with reporter.track("Features", len(samples)) as advance:
        for batch in trunk.extract(samples):
            positions, states, masks = batch
            if not held and not written:
                per_image = (states.nbytes + masks.nbytes) / len(positions)
                check_free_space(store.folder, int(per_image * len(samples)))
            held.append(batch)
            held_bytes += states.nbytes + masks.nbytes
            advance(len(positions), "")
            if held_bytes >= SHARD_BYTES:
                written += _write(store, held, digests)
                held, held_bytes = [], 0
        if held:
            _write(store, held, digests)


def _write(store: FeatureStore, held: Sequence[States], digests: Sequence[str]) -> int:
    """Write batches as one shard; the number of its rows."""
    positions = [position for batch, _, _ in held for position in batch]
    states = np.concatenate([states for _, states, _ in held])
    masks = np.concatenate([masks for _, _, masks in held])
    store.add([digests[position] for position in positions], states, masks)
    return len(positions)
