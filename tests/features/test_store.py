from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.config.schema import ModelConfig, TrainingConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.drawn_pets import SyntheticSample
from squeeze_cli.data.samples import FileSample, Sample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features import prepare
from squeeze_cli.features.datamodule import Batch, SegmentationDataModule
from squeeze_cli.features.prepare import Ranks, Trunk
from squeeze_cli.features.shards import DamagedShardError, open_shard, write_shard
from squeeze_cli.features.store import FeatureStore, StoreKey, check_free_space
from tests.pets import cut, labelled, noise_image
from tests.preprocessed import preprocessed

SIZE = 64
ALONE = Ranks()
KEY = StoreKey("b", "w", "features", "p", "32")


@pytest.fixture(scope="module")
def backbone() -> FrozenBackbone:
    return create_backbone(ModelConfig(backbone="efficientnet-lite0", weights="none"), (SIZE, SIZE))


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Six drawn images, with the classes of their masks."""
    return [labelled(SyntheticSample(str(i), 0, i, SIZE)) for i in range(0, 12, 2)]


class Counting(Reporter):
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        object.__setattr__(self, "warnings", [])

    def warn(self, text: str) -> None:
        self.warnings.append(text)  # type: ignore[attr-defined]


class Ranked(SegmentationDataModule):
    """A data module of one of several processes."""

    ranks = ALONE


def prepared(
    backbone: FrozenBackbone, samples: list[Sample], cache: Path, reporter: Reporter | None = None,
    ranks: Ranks = ALONE,
) -> SegmentationDataModule:  # fmt: skip
    """A data module with the split `all`, set up."""
    preprocessing = Preprocessing((SIZE, SIZE))
    digest = backbone.weights.digest
    key = StoreKey(backbone.name, digest, "features", preprocessing.key(), "32")
    data = Ranked(
        {"all": samples}, Trunk(backbone, "features", preprocessing, torch.device("cpu")),
        FeatureStore(cache, key), TrainingConfig(batch_size=2, seed=0), reporter or Counting(),
    )  # fmt: skip
    data.evaluation_batch_size = 2
    data.ranks = ranks
    data.setup()
    return data


def batch(data: SegmentationDataModule, positions: list[int]) -> Batch:
    """States, classes and positions."""
    return data.batch("all", positions)


def watch_backbone(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that will hold the size of each batch that passes the backbone."""
    passed: list[int] = []
    original = Trunk.states

    def watched(trunk: Trunk, pixels: torch.Tensor) -> torch.Tensor:
        passed.append(len(pixels))
        return original(trunk, pixels)

    monkeypatch.setattr(Trunk, "states", watched)
    return passed


def rows(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    generator = np.random.default_rng(seed)
    states = generator.standard_normal((count, 3, 2, 5)).astype(np.float32)
    return [f"{seed}-{i}" for i in range(count)], states


def test_states_are_those_of_the_backbone_within_float16(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path
) -> None:
    dataset = prepared(backbone, samples, tmp_path)
    states, masks, index = batch(dataset, [4, 1])
    preprocessing = Preprocessing((SIZE, SIZE))
    for row, position in enumerate(index.tolist()):
        image = samples[position].read().decode()
        expected = backbone.network(preprocessed(image, SIZE)[None])[0]
        error = (states[row] - expected).abs()
        assert (error <= expected.abs() * 2**-11 + 1e-4).all()
        labels = samples[position].labels
        assert labels is not None
        assert torch.equal(masks[row], preprocessing.mask(Image.fromarray(labels.plane())))
    assert states.dtype == torch.float32
    assert states.is_contiguous(memory_format=torch.channels_last)


def test_each_image_passes_the_backbone_once(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = watch_backbone(monkeypatch)
    first = prepared(backbone, [*samples, *samples[:3]], tmp_path)
    again = prepared(backbone, samples[::-1], tmp_path)
    assert sum(passed) == 6
    assert torch.equal(batch(first, [0, 5])[0], batch(again, [5, 0])[0])
    assert torch.equal(batch(first, [2])[0], batch(first, [8])[0])


def test_only_what_is_missing_is_computed(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(backbone, samples[:4], tmp_path)
    passed = watch_backbone(monkeypatch)
    prepared(backbone, samples, tmp_path)
    assert passed == [2]


def test_ranks_share_what_is_missing_and_wait_for_one_another(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other rank works while this one waits: together they compute each image once."""
    monkeypatch.setattr(backbone, "inference_batch", 2)
    passed = watch_backbone(monkeypatch)
    waits = []

    def other_rank() -> None:
        waits.append(sum(passed))
        if len(waits) == 1:
            prepared(backbone, samples, tmp_path, ranks=Ranks(1, 2, other_rank))

    data = prepared(backbone, samples, tmp_path, ranks=Ranks(0, 2, other_rank))
    assert (waits, sum(passed)) == ([4, 6], 6)
    alone = prepared(backbone, samples, tmp_path / "alone")
    assert torch.equal(batch(data, [0, 3, 5])[0], batch(alone, [0, 3, 5])[0])


@pytest.mark.parametrize("rank", [0, 1])
def test_an_image_that_breaks_for_one_rank_is_left_out_by_all(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, rank: int,
) -> None:  # fmt: skip
    """Its header is whole: only the rank that decodes it sees that it is cut."""
    monkeypatch.setattr(backbone, "inference_batch", 1)
    noise_image(67, 41).save(tmp_path / "cut.jpg")
    cut(tmp_path / "cut.jpg")
    mixed = [samples[0], samples[1], FileSample("cut", tmp_path / "cut.jpg"), samples[3]]

    def other_rank() -> None:
        prepared(backbone, mixed, tmp_path, ranks=Ranks(1 - rank, 2))

    reporter = Counting()
    data = prepared(backbone, mixed, tmp_path, reporter, Ranks(rank, 2, other_rank))
    assert data.splits["all"] == [samples[0], samples[1], samples[3]]
    assert [name for name, _ in data.skipped] == ["cut"]
    assert "truncated" in data.skipped[0][1]
    assert len(reporter.warnings) == 1  # type: ignore[attr-defined]
    assert torch.equal(batch(data, [2])[0], batch(prepared(backbone, mixed, tmp_path), [2])[0])


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
    data = prepared(backbone, samples, tmp_path)
    first = batch(data, [0, 1, 2, 3, 4, 5])[0].clone()
    for path in tmp_path.rglob("*.safetensors"):
        with path.open("r+b") as file:  # in place: a memory map would show it
            file.write(bytes(path.stat().st_size))
    assert all(states.abs().max() > 0 for states in first)
    again, masks, _ = batch(data, [0, 1, 2, 3, 4, 5])
    assert torch.equal(again, first)
    assert all(mask.max() > 0 for mask in masks)


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
    assert len(prepared(backbone, samples, tmp_path, reporter).splits["all"]) == 6
    assert len(reporter.warnings) == 1  # type: ignore[attr-defined]


def test_a_shard_with_several_damaged_rows_is_told_of_once(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path
) -> None:
    prepared(backbone, samples, tmp_path)
    state_bytes = 2 * 320 * 4 * 4
    for position in (-7, -state_bytes - 7, -2 * state_bytes - 7):  # states of three images
        damage(tmp_path, position)
    reporter = Counting()
    assert len(prepared(backbone, samples, tmp_path, reporter).splits["all"]) == 6
    assert len(reporter.warnings) == 1  # type: ignore[attr-defined]


def test_damage_met_in_a_mapped_store_ends_the_run_with_the_fix(
    backbone: FrozenBackbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "fits_in_memory", lambda total: False)
    prepared(backbone, samples, tmp_path)
    shard = damage(tmp_path)
    data = prepared(backbone, samples, tmp_path)
    with pytest.raises(SqueezeError, match="run the same command again"):
        batch(data, [0, 1, 2, 3, 4, 5])
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
    assert reopened.digests == {"0-0", "0-1"}
    assert not old.exists()
    assert young.exists()  # another process may be writing it


def test_digests_that_change_places_are_noticed(tmp_path: Path) -> None:
    """Each state is whole, but would be taken for that of another image."""
    path = tmp_path / "x.safetensors"
    write_shard(path, ["a" * 32, "b" * 32], np.zeros((2, 4, 3), np.float32))
    content = path.read_bytes()
    swapped = content.replace(b"a" * 32, b"?").replace(b"b" * 32, b"a" * 32)
    path.write_bytes(swapped.replace(b"?", b"b" * 32))
    with pytest.raises(DamagedShardError, match="digests have changed"):
        open_shard(path)
    path.write_bytes(content)
    assert open_shard(path).digests == ("a" * 32, "b" * 32)


def test_open_shards_hold_no_file_open(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    store = FeatureStore(tmp_path, KEY)
    for image in range(12):
        store.add([f"{image}"], rows(1)[1])
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
    assert FeatureStore(tmp_path, KEY).digests == set(rows(2)[0])


def test_float16_only_where_the_values_allow(tmp_path: Path) -> None:
    digests, states = rows(2)
    write_shard(tmp_path / "small.safetensors", digests, states)
    assert open_shard(tmp_path / "small.safetensors").read(0).dtype == np.float16
    states[0, 0, 0, 0] = 1e6
    write_shard(tmp_path / "large.safetensors", digests, states)
    shard = open_shard(tmp_path / "large.safetensors")
    read = [shard.read(row) for row in range(2)]
    assert read[0].dtype == np.float32
    assert np.array_equal(read, states)
    tiny = rows(2)[1] * np.float32(1e-7)  # below the smallest float16
    write_shard(tmp_path / "tiny.safetensors", digests, tiny)
    assert np.array_equal(open_shard(tmp_path / "tiny.safetensors").read(1), tiny[1])


def test_a_shard_of_another_format_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}              ")
    with pytest.raises(DamagedShardError):
        open_shard(tmp_path / "x.safetensors")


def test_a_shard_of_another_space_is_not_read(tmp_path: Path) -> None:
    digests, states = rows(2)
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
    write_shard(tmp_path / "other" / "x.safetensors", digests, states)
    assert open_shard(tmp_path / "other" / "x.safetensors").digests == tuple(digests)
    moved = (tmp_path / "other" / "x.safetensors").rename(tmp_path / "own" / "x.safetensors")
    with pytest.raises(DamagedShardError, match="other features"):
        open_shard(moved)


def test_states_that_are_not_finite_are_computed_again(tmp_path: Path) -> None:
    digests, states = rows(2)
    states[1, 0, 0, 0] = np.nan
    write_shard(tmp_path / "x.safetensors", digests, states)
    shard = open_shard(tmp_path / "x.safetensors")
    assert np.array_equal(shard.read(0), states[0])
    with pytest.raises(DamagedShardError, match="row 1 is not finite"):
        shard.read(1)


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SqueezeError, match=r"needs 1\.0 PB.*--cache-dir"):
        check_free_space(tmp_path / "not" / "there", 10**15)
