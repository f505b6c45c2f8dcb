from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.drawn_pets import SyntheticPetSource
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features import prepare
from squeeze_cli.features.prepare import Ranks, States, Trunk, from_rows
from squeeze_cli.features.shards import DamagedShardError, open_shard, write_shard
from squeeze_cli.features.store import FeatureStore, StoreKey, check_free_space
from tests.pets import labelled
from tests.preprocessed import preprocessed

SIZE = 64
ALONE = Ranks()
KEY = StoreKey("b", "w", "features", "p", "32")


@pytest.fixture(scope="module")
def backbone() -> FrozenBackbone:
    return create_backbone(ModelConfig(backbone="efficientnet-lite0", weights="none"), (SIZE, SIZE))


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    source = SyntheticPetSource(count_trainval=6, image_size_px=SIZE)
    return [labelled(sample) for sample in source.samples("trainval")]


class Counting(Reporter):
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        object.__setattr__(self, "warnings", [])

    def warn(self, text: str) -> None:
        self.warnings.append(text)  # type: ignore[attr-defined]


def prepared(
    backbone: FrozenBackbone, samples: list[Sample], cache: Path, reporter: Reporter | None = None,
    ranks: Ranks = ALONE,
) -> prepare.StateDataset:  # fmt: skip
    preprocessing = Preprocessing((SIZE, SIZE))
    digest = backbone.weights.digest
    key = StoreKey(backbone.name, digest, "features", preprocessing.key(), "32")
    store = FeatureStore(cache, key)
    trunk = Trunk(backbone, "features", preprocessing, torch.device("cpu"))
    return prepare.prepare_states({"all": samples}, trunk, store, reporter or Counting(), ranks)[
        "all"
    ]


def batch(dataset: prepare.StateDataset, positions: list[int]) -> tuple[torch.Tensor, ...]:
    """States, masks and positions, as the data module makes them of rows."""
    rows, masks, index = default_collate([dataset[position] for position in positions])
    return from_rows(rows.float()), masks, index


def forbid_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the backbone ran again")

    monkeypatch.setattr(Trunk, "extract", refuse)


def rows(count: int, seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    states = generator.standard_normal((count, 3, 2, 5)).astype(np.float32)
    masks = generator.integers(0, 3, (count, 4, 6), dtype=np.uint8)
    return [f"{seed}-{i}" for i in range(count)], states, masks


def test_states_are_those_of_the_backbone_within_float16(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path
) -> None:
    dataset = prepared(backbone, samples, tmp_path)
    states, masks, index = batch(dataset, [4, 1])
    preprocessing = Preprocessing((SIZE, SIZE))
    for row, position in enumerate(index.tolist()):
        image, mask = samples[position].load()
        expected = backbone.network(preprocessed(image, SIZE)[None])[0]
        error = (states[row] - expected).abs()
        assert (error <= expected.abs() * 2**-11 + 1e-4).all()
        assert mask is not None
        assert torch.equal(masks[row], preprocessing.mask(mask))
    assert states.dtype == torch.float32
    assert states.is_contiguous(memory_format=torch.channels_last)


def test_each_image_passes_the_backbone_once(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(backbone, samples, tmp_path)
    forbid_backbone(monkeypatch)
    again = prepared(backbone, samples[::-1], tmp_path)
    assert torch.equal(batch(first, [0, 5])[0], batch(again, [5, 0])[0])


def test_only_what_is_missing_is_computed(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(backbone, samples[:4], tmp_path)
    seen: list[int] = []
    original = Trunk.extract

    def watched(trunk: Trunk, missing: list[Sample]) -> Iterator[States]:
        seen.append(len(missing))
        return original(trunk, missing)

    monkeypatch.setattr(Trunk, "extract", watched)
    prepared(backbone, samples, tmp_path)
    assert seen == [2]


def test_ranks_share_what_is_missing_and_wait_for_one_another(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other rank works whenever this one waits: together they compute each image once."""
    seen: list[tuple[int, int]] = []
    original = Trunk.extract
    rank = 0

    def watched(trunk: Trunk, missing: list[Sample]) -> Iterator[States]:
        seen.append((rank, len(missing)))
        return original(trunk, missing)

    def other_rank() -> None:
        nonlocal rank, waits
        waits += 1
        if waits == 2:  # all have looked, and this one has computed its share
            rank = 1
            prepared(backbone, samples[1::2], tmp_path)

    waits = 0
    monkeypatch.setattr(Trunk, "extract", watched)
    dataset = prepared(backbone, samples, tmp_path, ranks=Ranks(0, 2, other_rank))
    assert (waits, seen) == (2, [(0, 3), (1, 3)])
    monkeypatch.undo()
    alone = prepared(backbone, samples, tmp_path / "alone")
    assert torch.equal(batch(dataset, [0, 3, 5])[0], batch(alone, [0, 3, 5])[0])


@pytest.mark.parametrize(
    "field", ["backbone", "weights_digest", "layer", "preprocessing", "precision"]
)
def test_whatever_decides_a_state_is_in_the_key(field: str) -> None:
    assert replace(KEY, **{field: "other"}).digest() != KEY.digest()


def test_mapped_states_are_the_same_as_those_in_memory(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = batch(prepared(backbone, samples, tmp_path), [0, 3, 5])
    monkeypatch.setattr(prepare, "fits_in_memory", lambda total: False)
    mapped = batch(prepared(backbone, samples, tmp_path), [0, 3, 5])
    for a, b in zip(in_memory, mapped, strict=True):
        assert torch.equal(a, b)


def test_states_that_fit_in_memory_are_read_from_disk_once(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path
) -> None:
    """Whatever happens to the files after the start, every epoch sees what was read then."""
    dataset = prepared(backbone, samples, tmp_path)
    first = [state.clone() for state, _, _ in (dataset[i] for i in range(6))]
    for path in tmp_path.rglob("*.safetensors"):
        with path.open("r+b") as file:  # in place: a memory map would show it
            file.write(bytes(path.stat().st_size))
    assert all(states.abs().max() > 0 for states in first)
    for a, (b, mask, _) in zip(first, (dataset[i] for i in range(6)), strict=True):
        assert torch.equal(a, b)
        assert mask.max() > 0


def damage(cache: Path, position: int = -7) -> Path:
    (shard,) = cache.rglob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[position] ^= 0xFF
    shard.write_bytes(data)
    return shard


@pytest.mark.parametrize("position", [-7, 2000, 3, 40])
def test_a_changed_byte_is_noticed_and_the_part_made_again(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path, position: int
) -> None:
    expected = batch(prepared(backbone, samples, tmp_path), [0, 1, 2, 3, 4, 5])
    damage(tmp_path, position)
    reporter = Counting()
    again = batch(prepared(backbone, samples, tmp_path, reporter), [0, 1, 2, 3, 4, 5])
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert any("damaged" in text for text in reporter.warnings)  # type: ignore[attr-defined]


def test_a_truncated_shard_is_noticed_and_made_again(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path
) -> None:
    prepared(backbone, samples, tmp_path)
    (shard,) = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-100])
    reporter = Counting()
    assert len(prepared(backbone, samples, tmp_path, reporter)) == 6
    assert len(reporter.warnings) == 1  # type: ignore[attr-defined]


def test_a_shard_with_several_damaged_rows_is_told_of_once(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path
) -> None:
    prepared(backbone, samples, tmp_path)
    for position in (-7, -SIZE * SIZE - 7, -2 * SIZE * SIZE - 7):  # masks of three images
        damage(tmp_path, position)
    reporter = Counting()
    assert len(prepared(backbone, samples, tmp_path, reporter)) == 6
    assert len(reporter.warnings) == 1  # type: ignore[attr-defined]


def test_damage_met_in_a_mapped_store_ends_the_run_with_the_fix(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "fits_in_memory", lambda total: False)
    prepared(backbone, samples, tmp_path)
    shard = damage(tmp_path)
    dataset = prepared(backbone, samples, tmp_path)
    with pytest.raises(SqueezeError, match="run the same command again"):
        batch(dataset, [0, 1, 2, 3, 4, 5])
    assert not shard.exists()


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, KEY)
    store.add(*rows(2))
    old, young = (store.folder / f".{name}.part" for name in ("old", "young"))
    for part in (old, young):
        part.write_bytes(b"half")
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    reopened = FeatureStore(tmp_path, KEY)
    assert reopened.missing(["0-0", "0-1", "0-2"]) == [2]
    assert not old.exists()
    assert young.exists()  # another process may be writing it


def test_open_shards_hold_no_file_open(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    store = FeatureStore(tmp_path, KEY)
    for image in range(12):
        store.add([f"{image}"], *(array[:1] for array in rows(1)[1:]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/dev/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 4, hard))
    try:
        reopened = FeatureStore(tmp_path, KEY)
        assert all(reopened.read(f"{image}") is not None for image in range(12))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
def test_shards_that_cannot_be_opened_now_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise OSError(number, os.strerror(number), str(path))

    FeatureStore(tmp_path, KEY).add(*rows(2))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SqueezeError, match=f"{os.strerror(number)}.*--no-cache"):
        FeatureStore(tmp_path, KEY)
    monkeypatch.undo()
    assert FeatureStore(tmp_path, KEY).missing(rows(2)[0]) == []


def test_float16_only_where_the_values_allow(tmp_path: Path) -> None:
    digests, states, masks = rows(2)
    write_shard(tmp_path / "small.safetensors", digests, states, masks)
    assert open_shard(tmp_path / "small.safetensors").read(0)[0].dtype == np.float16
    states[0, 0, 0, 0] = 1e6
    write_shard(tmp_path / "large.safetensors", digests, states, masks)
    shard = open_shard(tmp_path / "large.safetensors")
    read = [shard.read(row)[0] for row in range(2)]
    assert read[0].dtype == np.float32
    assert np.array_equal(read, states)


def test_a_shard_of_another_format_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}              ")
    with pytest.raises(DamagedShardError):
        open_shard(tmp_path / "x.safetensors")


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SqueezeError, match=r"needs 1000000.* GB.*--cache-dir"):
        check_free_space(tmp_path / "not" / "there", 10**15)
