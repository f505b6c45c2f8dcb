"""`CodesDataset` and its streams: what `squeeze decode` writes, in any process and order."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from squeeze_cli import api
from squeeze_cli.api import CodesDataset, CodesStream, extract, open_run, train
from squeeze_cli.codec import shards
from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.config.schema import DataConfig, ExperimentConfig, QuantizerConfig, TrainingConfig
from squeeze_cli.console import Reporter
from squeeze_cli.errors import DamagedCodesError, SqueezeError, UsageError
from squeeze_cli.inference import codes_folder
from squeeze_cli.inference.decode import decode_codes
from tests.conftest import ROOT

C, H, W, IMAGES, PER_SHARD = 24, 3, 5, 13, 5
NAMES = [f"photo {number:02d}" for number in range(IMAGES)]
CODED = [name for name in QUANTIZERS if name != "none"]


class Coded(NamedTuple):
    """A run, a folder of three shards of codes, and the features `[13, C, h, w]` that these decode to."""

    run: Path
    codes: Path
    features: Tensor


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Coded]:
    """Make a run of a quantizer, its codes and what `squeeze decode` writes of them, once each."""
    made: dict[str, Coded] = {}

    def make(name: str, **options: object) -> Coded:
        if name in made:
            return made[name]
        folder = tmp_path_factory.mktemp(name)
        generator = np.random.default_rng(0)
        maps = generator.normal(size=(IMAGES, H, W, 6)) @ generator.normal(size=(6, C))
        np.save(folder / "maps.npy", maps.astype(np.float32))
        (folder / "names.txt").write_text("".join(f"{name}\n" for name in NAMES))
        kind = str(options.pop("type", name))
        sizes: dict[str, object] = {"codec": "SQ8"} if kind == "faiss" else {"bottleneck_dim": 8}
        sizes |= {"codebook_size": 16} if kind in ("vq", "rvq", "pq", "lfq") else {}
        sizes |= {"rvq": {"num_quantizers": 2}, "pq": {"num_groups": 2}}.get(kind, {})
        sizes |= {"levels": (5, 3)} if kind == "fsq" else {}
        config = ExperimentConfig(
            quantizer=QuantizerConfig(**sizes, **options),
            data=DataConfig(
                features=str(folder / "maps.npy"), feature_names=str(folder / "names.txt")
            ),
            training=TrainingConfig(batch_size=4),
        )
        train(kind, epochs=1, device="cpu", output_dir=folder / "runs", name="it", config=config)
        run, codes = folder / "runs" / "it", folder / "codes"
        extract(
            run, features=folder / "maps.npy", feature_names=folder / "names.txt",
            out=codes, device="cpu", images_per_shard=PER_SHARD, num_workers=0,
        )  # fmt: skip
        decode_codes(
            codes, "features", folder / "decoded", Reporter(quiet=True), run=run, device="cpu"
        )
        shards = sorted((folder / "decoded").glob("*.safetensors"))
        features = np.concatenate([load_file(shard)["embeddings"] for shard in shards])
        made[name] = Coded(run, codes, torch.from_numpy(features))
        return made[name]

    return make


@pytest.fixture(scope="module")
def vq(coded: Callable[[str], Coded]) -> Coded:
    return coded("vq")


def by_name(items: object) -> dict[str, Tensor]:
    """The tensors of single items with names."""
    found = [(name, tensor) for tensor, name in items]  # type: ignore[attr-defined]
    assert len({name for name, _ in found}) == len(found)
    return dict(found)


def assert_all(found: dict[str, Tensor], wanted: Tensor) -> None:
    assert sorted(found) == NAMES
    assert torch.equal(torch.stack([found[name] for name in NAMES]), wanted)


@pytest.mark.parametrize("name", CODED)
def test_items_are_what_decode_writes_to_the_last_bit(
    coded: Callable[[str], Coded], name: str
) -> None:
    made = coded(name)
    assert len(list(made.codes.glob("*.sqz"))) == 3
    data = CodesDataset(made.codes, run=made.run)
    assert len(data) == IMAGES
    assert data[3].shape == (C, H, W)
    assert torch.equal(torch.stack(list(data)), made.features)
    order = [12, 0, -1, 5, 4, 5]
    assert torch.equal(torch.stack(data.__getitems__(order)), made.features[order])
    for batch_size in (1, 4):
        batches = list(data.stream(batch_size=batch_size))
        assert torch.equal(torch.cat(batches), made.features)
    run, codes = open_run(made.run, device="cpu"), CodesDataset(made.codes, "codes", run=made.run)
    stored = np.concatenate([run.open(path).read() for path in sorted(made.codes.glob("*.sqz"))])
    assert codes[0].dtype == torch.int32
    assert np.array_equal(torch.stack(list(codes)).numpy(), stored)
    vectors = torch.stack(list(CodesDataset(made.codes, "vectors", run=made.run)))
    assert vectors.shape[2:] == (H, W)
    decoded = run.network.quantizer.output_map().map_channels(vectors)
    assert torch.equal(run.to_output(decoded).detach(), made.features)


def test_vectors_without_neighbours_and_strides_decode_the_same_in_any_batch(
    tmp_path: Path,
) -> None:
    """Single vectors are rows of a matrix product, and of few rows BLAS takes another routine."""
    maps = np.random.default_rng(1).normal(size=(9, 40)).astype(np.float32)
    np.save(tmp_path / "maps.npy", maps)
    config = ExperimentConfig(
        quantizer=QuantizerConfig(codebook_size=4, bottleneck_dim=36),
        data=DataConfig(features=str(tmp_path / "maps.npy")),
    )
    train("vq", epochs=1, device="cpu", output_dir=tmp_path, name="it", config=config)
    extract(tmp_path / "it", features=tmp_path / "maps.npy", out=tmp_path / "codes", device="cpu")
    data = CodesDataset(tmp_path / "codes", run=tmp_path / "it")
    whole = torch.cat(list(data.stream(batch_size=9)))
    for size in (1, 2, 4):
        assert torch.equal(torch.cat(list(data.stream(batch_size=size))), whole)
    assert torch.equal(torch.stack(list(data)), whole)


def test_blocks_of_vectors_decode_to_their_grid(coded: Callable[..., Coded]) -> None:
    made = coded("fsq-stride", type="fsq", code_stride=2)
    data = CodesDataset(made.codes, run=made.run)
    assert torch.equal(torch.stack(list(data)), made.features)
    assert CodesDataset(made.codes, "vectors", run=made.run)[0].shape[1:] == (2, 3)
    assert CodesDataset(made.codes, "codes", run=made.run)[0].shape == (2, 3, 1)


@pytest.mark.parametrize("cache_bytes", [0, 2**28])
def test_access_in_any_order_is_right_whatever_is_kept(vq: Coded, cache_bytes: int) -> None:
    data = CodesDataset(vq.codes, run=vq.run, cache_bytes=cache_bytes)
    order = np.random.default_rng(2).integers(0, IMAGES, 40).tolist()
    assert torch.equal(torch.stack([data[index] for index in order]), vq.features[order])
    with pytest.raises(IndexError):
        data[IMAGES]


def test_each_file_is_checked_once_even_if_few_are_kept_open(
    vq: Coded, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Path] = []
    digest = shards.digest
    monkeypatch.setattr(codes_folder, "OPEN_FILES", 1)
    monkeypatch.setattr(shards, "digest", lambda path: checked.append(path) or digest(path))
    data = CodesDataset(vq.codes, run=vq.run, cache_bytes=0)
    for position in [*range(IMAGES), *range(IMAGES)]:
        assert torch.equal(data[position], vq.features[position])
    assert sorted(checked) == sorted(vq.codes.glob("*.sqz"))


def test_names_and_places_of_images(vq: Coded) -> None:
    data = CodesDataset(vq.codes, run=vq.run, with_names=True)
    assert data.names == NAMES
    assert [data.index(name) for name in ("photo 07", "photo 00")] == [7, 0]
    assert_all(by_name(data), vq.features)
    assert data[-2][1] == "photo 11"
    with pytest.raises(SqueezeError, match="no image 'photo 13'"):
        data.index("photo 13")


def as_version_2(codes: Path, run: Path, folder: Path) -> None:
    """Write the codes of a folder as squeeze did before shards had records."""
    opened, entries = open_run(run, device="cpu"), []
    folder.mkdir()
    for path in sorted(codes.glob("*.sqz")):
        shutil.copy(path, folder)
        content = path.read_bytes()
        entries.append({
            "file": path.name, "bytes": len(content), "names": opened.open(path).names, "sums": {},
            "blake2b": hashlib.blake2b(content, digest_size=16).hexdigest(),
        })  # fmt: skip
    manifest = {
        "format": "squeeze-embeddings", "version": 2, "content": "codes", "run": run.name,
        "run_digest": opened.digest, "source": "features", "coding": "prior", "space": "backbone",
        "complete": True, "images": IMAGES, "bytes": sum(entry["bytes"] for entry in entries),
        "shards": entries,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_folders_of_earlier_versions_are_read(vq: Coded, tmp_path: Path) -> None:
    as_version_2(vq.codes, vq.run, tmp_path / "codes")
    data = CodesDataset(tmp_path / "codes", run=vq.run, with_names=True)
    assert_all(by_name(data), vq.features)
    assert_all(by_name(data.stream(shuffle_buffer=3)), vq.features)


def test_one_file_and_the_run_around_it(vq: Coded, tmp_path: Path) -> None:
    shutil.copytree(vq.run, tmp_path / "run")
    shutil.copytree(vq.codes, tmp_path / "run" / "embeddings")
    inside = CodesDataset(tmp_path / "run" / "embeddings")
    assert torch.equal(torch.stack(list(inside)), vq.features)
    second = CodesDataset(tmp_path / "run" / "embeddings" / "codes-00001.sqz")
    assert torch.equal(torch.stack(list(second)), vq.features[PER_SHARD : 2 * PER_SHARD])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_either_start_method_give_the_same(vq: Coded, method: str) -> None:
    data = CodesDataset(vq.codes, run=vq.run, with_names=True)
    data[0]  # the run is open in this process already
    workers = 1 if method == "spawn" else 2
    loader = DataLoader(
        torch.utils.data.ConcatDataset([data, data]), batch_size=4, num_workers=workers,
        multiprocessing_context=method,
    )  # fmt: skip
    maps, names = zip(*loader, strict=True)
    assert [name for batch in names for name in batch] == [*NAMES, *NAMES]
    assert torch.equal(torch.cat(maps), torch.cat([vq.features, vq.features]))


def test_an_opened_data_set_can_be_pickled(vq: Coded) -> None:
    data = CodesDataset(vq.codes, run=vq.run, labels=dict(zip(NAMES, range(IMAGES), strict=True)))
    wanted, content = data[6], pickle.dumps(data)
    assert len(content) < 10_000  # neither weights nor codes
    again = pickle.loads(content)
    assert torch.equal(again[6][0], wanted[0])
    assert (again[6][1], again.names) == (6, NAMES)
    ranked = pickle.loads(pickle.dumps(data.stream(rank=1, num_ranks=2)))
    assert ranked.rank == (1, 2)


@pytest.mark.parametrize(("workers", "ranks"), [(0, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("shuffle_buffer", [0, 4])
def test_workers_and_ranks_share_the_images(
    vq: Coded, workers: int, ranks: int, shuffle_buffer: int
) -> None:
    data = CodesDataset(vq.codes, run=vq.run, with_names=True)
    found, counts = [], []
    for rank in range(ranks):
        stream = data.stream(shuffle_buffer=shuffle_buffer, rank=rank, num_ranks=ranks)
        mine = list(DataLoader(stream, batch_size=None, num_workers=workers))
        counts.append(len(mine))
        found += mine
    assert_all(by_name(found), vq.features)
    assert max(counts) - min(counts) <= max(1, workers)
    even = [
        list(DataLoader(stream, batch_size=None, num_workers=workers))
        for stream in (
            data.stream(batch_size=2, even=True, rank=rank, num_ranks=ranks)
            for rank in range(ranks)
        )
    ]
    assert len({len(batches) for batches in even}) == 1
    kept = [name for batches in even for _, names in batches for name in names]
    parts = ranks * max(1, workers)
    assert len(set(kept)) == len(kept) == IMAGES // parts * parts


def test_ranks_come_from_the_process_group(vq: Coded, monkeypatch: pytest.MonkeyPatch) -> None:
    data = CodesDataset(vq.codes, run=vq.run, with_names=True)
    stream = data.stream()
    assert len(list(stream)) == IMAGES
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    second = [name for _, name in stream]
    assert second == NAMES[IMAGES // 2 :]
    kept = pickle.loads(pickle.dumps(stream))  # as a spawned worker gets it
    monkeypatch.undo()
    assert [name for _, name in kept] == second


def order(stream: CodesStream) -> list[str]:
    return [name for _, name in stream]  # type: ignore[misc]


def test_the_order_is_drawn_by_seed_and_epoch(vq: Coded) -> None:
    data = CodesDataset(vq.codes, "codes", run=vq.run, with_names=True)
    stream = data.stream(shuffle_buffer=6, seed=3)
    first = order(stream)
    assert first != NAMES
    assert sorted(first) == NAMES
    assert order(data.stream(shuffle_buffer=6, seed=3)) == first
    assert order(data.stream(shuffle_buffer=6, seed=4)) != first
    stream.set_epoch(1)
    assert order(stream) not in (first, NAMES)
    stream.set_epoch(0)
    assert order(stream) == first
    assert order(data.stream()) == NAMES


def test_workers_that_live_on_hear_of_the_epoch(vq: Coded) -> None:
    stream = CodesDataset(vq.codes, "codes", run=vq.run, with_names=True).stream(shuffle_buffer=9)
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    first = [name for _, name in loader]
    assert [name for _, name in loader] == first
    stream.set_epoch(5)
    later = [name for _, name in loader]
    assert later != first
    assert sorted(later) == NAMES


def test_batches_of_a_stream_have_labels_and_names(vq: Coded) -> None:
    numbers = {name: number for number, name in enumerate(NAMES)}
    data = CodesDataset(vq.codes, run=vq.run, labels=numbers, with_names=True)
    batches = list(data.stream(batch_size=6, shuffle_buffer=2))
    assert [len(maps) for maps, _, _ in batches] == [6, 6, 1]
    for maps, labels, names in batches:
        assert labels.dtype == torch.int64
        assert [numbers[name] for name in names] == labels.tolist()
        assert torch.equal(maps, vq.features[labels])
    doubled = CodesDataset(vq.codes, run=vq.run, transform=lambda maps: 2 * maps)
    assert torch.equal(doubled[4], 2 * vq.features[4])
    assert torch.equal(torch.cat(list(doubled.stream(batch_size=5))), 2 * vq.features)
    assert torch.equal(torch.stack(list(doubled.stream())), 2 * vq.features)


def test_labels_of_a_file_are_joined_by_name(vq: Coded, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    rows = ["name,label", "photo 11.jpg,dog", "photo 02,cat", "photo 07,dog", "elsewhere,ant"]
    file.write_text("\n".join(rows))
    left_out = r"10 of 13 images have no label .* photo 00"
    with pytest.warns(match=left_out), pytest.warns(match=r"1 names in .* elsewhere"):
        data = CodesDataset(vq.codes, run=vq.run, labels=file)
    assert data.classes == ["ant", "cat", "dog"]  # the same for every folder
    assert data.names == ["photo 02", "photo 07", "photo 11"]
    assert [label for _, label in data] == [1, 2, 2]
    maps, labels = default_collate(list(data.stream()))
    assert torch.equal(maps, vq.features[[2, 7, 11]])
    assert labels.tolist() == [1, 2, 2]
    for rank in range(2):
        (batch,) = data.stream(batch_size=9, rank=rank, num_ranks=2)
        assert batch[1].tolist() == [[1], [2, 2]][rank]
    file.write_text("photo 02,cat\nphoto 02,dog\n")
    with pytest.raises(SqueezeError, match="two labels"):
        CodesDataset(vq.codes, run=vq.run, labels=file)
    with pytest.raises(SqueezeError, match=r"No image of .* has a label"):
        CodesDataset(vq.codes, run=vq.run, labels={"photo 2": 1})


def test_mistakes_are_one_line(vq: Coded, coded: Callable[[str], Coded], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'features'"):
        CodesDataset(vq.codes, "feature", run=vq.run)  # type: ignore[arg-type]
    with pytest.raises(SqueezeError, match="not in a run's folder"):
        CodesDataset(vq.codes)
    with pytest.raises(SqueezeError, match=r"another (run|prior)"):
        CodesDataset(vq.codes, run=coded("fsq").run)
    with pytest.raises(SqueezeError, match="There is no"):
        CodesDataset(tmp_path / "nowhere", run=vq.run)
    data = CodesDataset(vq.codes, run=vq.run)
    for wrong in (
        {"rank": 2, "num_ranks": 2}, {"rank": 0}, {"rank": 0, "num_ranks": 0}, {"batch_size": 0},
        {"batch_size": 1.5}, {"shuffle_buffer": -1}, {"shuffle_buffer": "4"}, {"seed": -1},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            data.stream(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="epoch -1 is below 0"):
        data.stream().set_epoch(-1)
    for index in (slice(0, 2), [0, 1], 1.0, "0", None):
        with pytest.raises(TypeError, match=r"integer"):
            data[index]  # type: ignore[index]
    for labels in (
        {"photo 00": "cat", "photo 01": 0},
        {"photo 00": float("nan"), "photo 02": "dog"},
    ):
        with pytest.raises(
            UsageError, match=r"`labels` are texts and other values, such as (0|nan)"
        ):
            CodesDataset(vq.codes, run=vq.run, labels=labels)
    copy = tmp_path / "codes"
    shutil.copytree(vq.codes, copy)
    shutil.copy(copy / "codes-00000.sqz", copy / "codes-00001.sqz")  # as many images
    changed = CodesDataset(copy, run=vq.run)
    assert torch.equal(changed[0], vq.features[0])
    with pytest.raises(SqueezeError, match="damaged"):
        changed[PER_SHARD]
    (copy / "one.sqz").write_bytes((copy / "codes-00000.sqz").read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedCodesError, match="damaged"):
        CodesDataset(copy / "one.sqz", run=vq.run)[0]


def test_the_interface_is_imported_without_torch() -> None:
    code = "import sys, squeeze_cli.api; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert not hasattr(api, "CodesDatasets")


@pytest.mark.slow
def test_the_examples_of_the_page_run_and_probes_reach_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two classes of features that codes tell apart, one of them in each second image."""
    generator = np.random.default_rng(4)
    kinds = np.arange(60) // 2 % 2
    maps = generator.normal(size=(60, 3, 5, C)) + 2 * kinds[:, None, None, None]
    np.save(tmp_path / "maps.npy", maps.astype(np.float32))
    config = ExperimentConfig(
        quantizer=QuantizerConfig(codebook_size=16, bottleneck_dim=8),
        data=DataConfig(features=str(tmp_path / "maps.npy")),
    )
    train("vq", epochs=1, device="cpu", output_dir=tmp_path / "runs", name="pets", config=config)
    extract(
        tmp_path / "runs" / "pets", features=tmp_path / "maps.npy", out=tmp_path / "pet-codes",
        device="cpu",
    )  # fmt: skip
    rows = "".join(
        f"{number:02d},{'cat' if kind else 'dog'}\n" for number, kind in enumerate(kinds)
    )
    (tmp_path / "labels.csv").write_text(rows)
    (tmp_path / "runs" / "quickstart").symlink_to("pets")
    (tmp_path / "holiday-codes").symlink_to("pet-codes")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    examples = [block for block in blocks if "CodesDataset" in block]
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "usage.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.split() == ["1.0", "1.0"]
