"""Feature maps in files of every kind: the same values come out, and mistakes are named."""

from __future__ import annotations

import gc
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Literal
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from squeeze_cli.codec.manifest import Content, EarlierManifest, EarlierShard
from squeeze_cli.console import no_advance
from squeeze_cli.data.array_files import open_array
from squeeze_cli.data.arrays import FeatureSample, check_features, list_features
from squeeze_cli.errors import SqueezeError

N, H, W, C = 5, 2, 3, 4
# Values that float16 and bfloat16 hold exactly.
VALUES = torch.arange(N * H * W * C, dtype=torch.float32).reshape(N, H, W, C) - 50


def _npz(path: Path, values: torch.Tensor) -> None:
    np.savez(path, features=values.numpy(), others=np.arange(7))


WRITERS: dict[str, Callable[[Path, torch.Tensor], object]] = {
    "x.npy": lambda path, values: np.save(path, values.numpy()),
    "big-endian.npy": lambda path, values: np.save(
        path, values.numpy().astype(values.numpy().dtype.newbyteorder(">"))
    ),
    "fortran.npy": lambda path, values: np.save(path, np.asfortranarray(values.numpy())),
    "x.npz": _npz,
    "compressed.npz": lambda path, values: np.savez_compressed(path, anything=values.numpy()),
    "x.safetensors": lambda path, values: save_file({"anything": values}, path),
}
TYPES = (torch.float16, torch.float32, torch.float64)
CASES = [(name, dtype) for name in WRITERS for dtype in TYPES]
CASES.append(("x.safetensors", torch.bfloat16))


def read(samples: list[FeatureSample]) -> torch.Tensor:
    return torch.stack([sample.features() for sample in samples])


def reason(path: Path, names: Path | None = None) -> str:
    with pytest.raises(SqueezeError) as caught:
        check_features(list_features(path, names).train, no_advance)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_rows_of_an_array_are_maps_in_float32(
    tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    path = tmp_path / name
    WRITERS[name](path, VALUES.to(dtype))
    listing = list_features(path, None)
    samples, warnings = listing.train, listing.warnings
    maps = read(samples)
    assert maps.dtype == torch.float32
    assert torch.equal(maps, VALUES)
    assert [sample.name for sample in samples] == ["0", "1", "2", "3", "4"]
    assert warnings == ()
    shape, digests = check_features(samples, no_advance)
    assert shape == (H, W, C)
    # The digest is of the values, whatever the file and the order of the samples are.
    np.save(tmp_path / "plain.npy", VALUES.numpy())
    plain = list_features(tmp_path / "plain.npy", None).train
    assert check_features(plain[::-1], no_advance) == (shape, digests[::-1])
    assert len(set(digests)) == N


def test_vectors_are_maps_of_one_by_one(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES.reshape(-1, C).numpy())
    samples = list_features(tmp_path / "x.npy", None).train
    assert torch.equal(read(samples), VALUES.reshape(-1, 1, 1, C))
    assert check_features(samples, no_advance)[0] == (1, 1, C)
    assert (samples[0].name, samples[-1].name) == ("00", "29")


@pytest.mark.parametrize("values", [VALUES, VALUES[:, 0, 0]], ids=["maps", "vectors"])
def test_a_folder_has_a_map_in_each_file(tmp_path: Path, values: torch.Tensor) -> None:
    (tmp_path / "sub").mkdir()
    for name, row in (("b.npy", 0), ("a.npz", 1), ("sub/a.safetensors", 2), ("b.safetensors", 3)):
        WRITERS[f"x.{name.rpartition('.')[2]}"](tmp_path / name, values[row])
    (tmp_path / "notes.txt").write_text("no features")
    (tmp_path / ".hidden.npy").write_text("no features")
    listing = list_features(tmp_path, None)
    samples, warnings = listing.train, listing.warnings
    assert [s.name for s in samples] == ["a", "b.npy", "b.safetensors", "sub/a"]
    assert torch.equal(read(samples).reshape(-1), values[[1, 0, 3, 2]].reshape(-1))
    assert warnings == (f"Left out 1 files in {tmp_path} that are not features.",)


def test_names_are_those_of_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES.numpy())
    names = tmp_path / "names.txt"
    names.write_text("\ufeffa\nb c\nd/e\nf\ng\n", encoding="utf-8")
    assert [s.name for s in list_features(tmp_path / "x.npy", names).train] == [
        "a",
        "b c",
        "d/e",
        "f",
        "g",
    ]
    names.write_text("a\nb\n")
    assert "has 2 names and" in reason(tmp_path / "x.npy", names)
    names.write_text("a\nb\nc\na\nd\n")
    assert "'a' 2 times" in reason(tmp_path / "x.npy", names)
    assert "leave it out" in reason(tmp_path, names)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    broken = VALUES.clone()
    broken[3, 1, 2, 0] = broken[4, 0, 0, 0] = value
    path = tmp_path / "x.npy"
    np.save(path, broken.numpy())
    assert (
        f"2 of 5 feature maps hold values that are not finite, such as row 3 of {path}"
        in reason(path)
    )
    samples = list_features(path, None).train[:3]  # what is not used does not matter
    assert check_features(samples, no_advance)[0] == (H, W, C)


def test_headers_are_parsed_by_one_thread_at_a_time(tmp_path: Path) -> None:
    """Python's `ast` fails if another thread runs while it builds its objects, as in a collection."""
    np.save(tmp_path / "a.npy", VALUES[0].numpy())
    np.savez(tmp_path / "b.npz", VALUES[0].numpy())
    np.savez_compressed(tmp_path / "c.npz", VALUES[0].numpy())
    pause, thresholds = lambda *_: time.sleep(1e-5), gc.get_threshold()
    gc.callbacks.append(pause)
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(8) as pool:
            files = sorted(tmp_path.iterdir()) * 200
            shapes = {array.shape for array in pool.map(lambda path: open_array(path, {3}), files)}
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(pause)
    assert shapes == {(2, 3, 4)}


def test_maps_of_other_shapes_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES[0].numpy())
    np.save(tmp_path / "b.npy", VALUES[0, :, :, :3].numpy())
    found = reason(tmp_path)
    assert re.search(r"a\.npy is 2 x 3 x 4, .*b\.npy is 2 x 3 x 3", found)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((2, 3, 4), np.float32), "shape [2, 3, 4]: features are [N, h, w, C] or [N, C]"),
        (np.zeros((0, 4), np.float32), "shape [0, 4]"),
        (np.zeros((2, 4), np.int64), "values of type int64"),
        (np.array([[{}]]), "Cannot read"),
    ],
)
def test_arrays_that_are_no_features_are_refused(
    tmp_path: Path, values: np.ndarray, words: str
) -> None:
    np.save(tmp_path / "x.npy", values)
    assert words in reason(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.safetensors"])
def test_damaged_and_ambiguous_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, VALUES)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"Cannot read the features in {path}" in reason(path)
    path.write_bytes(b"")
    assert f"Cannot read the features in {path}" in reason(path)
    np.savez(tmp_path / "two.npz", a=VALUES.numpy(), b=VALUES.numpy())
    assert "2 arrays (a, b)" in reason(tmp_path / "two.npz")
    assert "There are no features" in reason(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no features" in reason(tmp_path / "empty")


def test_a_header_of_another_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with ZipFile(path, "w") as archive, archive.open("features.npy", "w") as file:
        np.lib.format.write_array(file, VALUES.numpy(), version=(3, 0))
    samples = list_features(path, None).train
    assert torch.equal(read(samples), VALUES)
    names = np.zeros((2, 4), [("\N{GREEK SMALL LETTER BETA}", np.float32)])
    with pytest.warns(UserWarning, match="format 3.0"):  # NumPy's own choice for such names
        np.savez(path, features=names)
    assert "values of type void" in reason(path)


def test_a_manifest_of_another_program_is_no_manifest(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES[0].numpy())
    (tmp_path / "manifest.json").write_text('{"name": "mine"}')
    listing = list_features(tmp_path, None)
    samples, warnings = listing.train, listing.warnings
    assert torch.equal(read(samples)[0], VALUES[0])
    assert warnings == (f"Left out 1 files in {tmp_path} that are not features.",)
    (tmp_path / "manifest.json").write_text('{"format": "squeeze-embeddings"}')
    assert "cannot be read" in reason(tmp_path)


@pytest.mark.parametrize(
    ("content", "space", "words"),
    [
        ("features", "backbone", None),
        ("features", "adapted", "after an adapter or a projection, not of a backbone"),
        ("quantized", "backbone", "holds quantized embeddings, not features"),
        ("codes", "backbone", "holds codes"),
    ],
)
def test_only_features_of_a_backbone_are_taken_from_shards(
    tmp_path: Path, content: Content, space: Literal["backbone", "adapted"], words: str | None
) -> None:
    file = f"{content}-00000.safetensors"
    maps = VALUES.permute(0, 3, 1, 2).contiguous()
    save_file({"embeddings": maps}, tmp_path / file, {"names": json.dumps(list("abcde"))})
    content_bytes = (tmp_path / file).read_bytes()
    digest = blake2b(content_bytes, digest_size=16).hexdigest()
    size = len(content_bytes)
    shard = EarlierShard(file=file, bytes=size, blake2b=digest, names=list("abcde"), sums={})
    manifest = EarlierManifest(
        format="squeeze-embeddings", version=2,
        content=content, run="r", run_digest="d", source="images", space=space, complete=True,
        images=N, bytes=size, shards=[shard],
    )  # fmt: skip
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    if words is None:
        assert torch.equal(read(list_features(tmp_path, None).train), VALUES)
    else:
        assert words in reason(tmp_path)


def test_a_shard_by_itself_is_not_read_as_rows_of_vectors(tmp_path: Path) -> None:
    """Its channels come first."""
    file = tmp_path / "features-00000.safetensors"
    save_file({"embeddings": VALUES}, file, {"names": json.dumps(list("abcde"))})
    assert f"{file} is a shard of squeeze, an array [N, C, h, w] with names: give" in reason(file)


@pytest.mark.parametrize("names", ["", "[", "3", '["a", "b"]', '["a", "b", "c", "d", "e", "f"]'])
def test_a_shard_has_a_name_for_each_row(tmp_path: Path, names: str) -> None:
    """Also where its digest and its manifest have been made to fit."""
    file = tmp_path / "features-00000.safetensors"
    save_file({"embeddings": VALUES.permute(0, 3, 1, 2).contiguous()}, file, {"names": names})
    content = file.read_bytes()
    digest, size = blake2b(content, digest_size=16).hexdigest(), len(content)
    shard = EarlierShard(file=file.name, bytes=size, blake2b=digest, names=["a", "b"], sums={})
    manifest = EarlierManifest(
        format="squeeze-embeddings", version=2,
        content="features", run="r", run_digest="d", source="images", space="backbone",
        complete=True, images=2, bytes=size, shards=[shard],
    )  # fmt: skip
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    assert f"{file} does not fit its record" in reason(tmp_path)


def test_only_the_rows_that_are_read_take_memory(tmp_path: Path) -> None:
    """A file of 64 GB in which nearly nothing is written."""
    path = tmp_path / "x.npy"
    array = np.lib.format.open_memmap(path, "w+", np.float16, (2**12, 64, 64, 2048))
    array[2**11, 0, 0, :3] = 1, 2, 3
    samples = list_features(path, None).train
    assert samples[2**11].features()[0, 0, :4].tolist() == [1, 2, 3, 0]
