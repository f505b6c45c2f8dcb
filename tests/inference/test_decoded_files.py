"""`squeeze decode --as npy|parquet`: files that NumPy, pandas, Arrow and datasets open."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from squeeze_cli.data.arrays import list_features
from squeeze_cli.errors import SqueezeError
from squeeze_cli.inference.trained_run import TrainedRun
from tests.conftest import Squeeze
from tests.inference.test_dataset import IMAGES, NAMES, PER_SHARD, C, Coded, H, W, coded, vq

__all__ = ["coded", "vq"]  # fixtures
Array = NDArray[np.floating]


@pytest.fixture
def wanted(vq: Coded) -> Array:
    """Features `[n, h, w, C]`."""
    return vq.features.numpy().transpose(0, 2, 3, 1)


def decode(squeeze: Squeeze, vq: Coded, *arguments: str, code: int = 0) -> str:
    done = squeeze(
        "decode", str(vq.codes), "--run", str(vq.run), "--to", "features", "--device", "cpu",
        *arguments, code=code,
    )  # fmt: skip
    return " ".join(done.stderr.split())


def content(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_npy_file_is_mapped_and_trained_on(
    squeeze: Squeeze, vq: Coded, wanted: Array, tmp_path: Path, dtype: str
) -> None:
    decode(squeeze, vq, "--as", "npy", "--dtype", dtype, "--out", "maps")
    assert content(tmp_path / "maps") == ["_decoded.json", "features.npy", "names.txt"]
    maps = np.load(tmp_path / "maps" / "features.npy", mmap_mode="r")
    assert (maps.shape, maps.dtype.name) == ((IMAGES, H, W, C), dtype)
    assert np.array_equal(maps, wanted.astype(dtype))
    maps = tmp_path / "maps"
    samples = list_features(maps / "features.npy", maps / "names.txt").train
    assert [sample.name for sample in samples] == NAMES
    assert np.array_equal(samples[7].features().numpy(), wanted[7].astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parquet_files_open_in_pandas_arrow_and_datasets(
    squeeze: Squeeze, vq: Coded, wanted: Array, tmp_path: Path, dtype: str
) -> None:
    pandas = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")
    parquet = pytest.importorskip("pyarrow.parquet")
    decode(squeeze, vq, "--as", "parquet", "--dtype", dtype, "--out", "maps")
    files = sorted((tmp_path / "maps").glob("*.parquet"))
    assert [file.name for file in files] == [f"features-0000{i}.parquet" for i in range(3)]
    assert [parquet.read_metadata(file).num_rows for file in files] == [5, 5, 3]

    frame = pandas.read_parquet(tmp_path / "maps")
    assert frame["name"].tolist() == NAMES
    assert frame["shape"].map(tuple).tolist() == [(H, W, C)] * IMAGES
    found = np.stack(frame["features"]).reshape(-1, H, W, C)
    assert found.dtype == dtype
    assert np.array_equal(found, wanted.astype(dtype))

    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "maps" / "*.parquet"), split="train",
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    assert loaded[11]["name"] == "photo 11"
    values = np.array(loaded[11]["features"], dtype).reshape(H, W, C)
    assert np.array_equal(values, wanted[11].astype(dtype))


def test_float16_shards_of_safetensors(squeeze: Squeeze, vq: Coded, tmp_path: Path) -> None:
    decode(squeeze, vq, "--dtype", "float16", "--out", "maps")
    maps = load_file(tmp_path / "maps" / "quantized-00000.safetensors")["embeddings"]
    assert maps.dtype == np.float16
    assert np.array_equal(maps, vq.features.numpy()[: len(maps)].astype(np.float16))


@pytest.mark.parametrize("form", ["safetensors", "npy", "parquet"])
def test_features_that_float16_cannot_hold_are_an_error(
    squeeze: Squeeze, vq: Coded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    decoded = TrainedRun.decoded
    monkeypatch.setattr(TrainedRun, "decoded", lambda run, codes: 1e5 * decoded(run, codes))
    said = decode(squeeze, vq, "--as", form, "--dtype", "float16", "--out", "maps", code=1)
    assert "The features of photo 0" in said
    assert "--dtype float32" in said
    assert not (tmp_path / "maps").exists()
    decode(squeeze, vq, "--as", form, "--out", "maps")


def fail_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Make a decoding end at this call of `decoded`."""
    decoded, calls = TrainedRun.decoded, []

    def failing(run: TrainedRun, codes: NDArray[np.integer]) -> object:
        calls.append(len(codes))
        if len(calls) == call:
            raise SqueezeError("stopped here")
        return decoded(run, codes)

    monkeypatch.setattr(TrainedRun, "decoded", failing)


def test_a_stopped_decoding_goes_on_with_the_next_file(
    squeeze: Squeeze, vq: Coded, wanted: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    with monkeypatch.context() as patch:
        fail_at(patch, 3)  # the first call asks for the shape
        assert "stopped here" in decode(squeeze, vq, "--as", "parquet", "--out", "maps", code=1)
    first = tmp_path / "maps" / "features-00000.parquet"
    assert content(tmp_path / "maps") == ["_decoded.json", first.name]
    before = first.stat().st_mtime_ns
    said = decode(squeeze, vq, "--as", "parquet", "--dtype", "float16", "--out", "maps", code=2)
    assert "other features" in said
    decode(squeeze, vq, "--as", "parquet", "--out", "maps")
    assert first.stat().st_mtime_ns == before
    found = np.stack(pandas.read_parquet(tmp_path / "maps")["features"])
    assert np.array_equal(found.reshape(wanted.shape), wanted)
    said = decode(squeeze, vq, "--as", "parquet", "--out", "maps", code=2)
    assert "holds decoded features already" in said


def test_what_is_replaced_stays_until_something_takes_its_place(
    squeeze: Squeeze, vq: Coded, wanted: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode(squeeze, vq, "--as", "parquet", "--out", "maps")
    names = content(tmp_path / "maps")
    with monkeypatch.context() as patch:
        fail_at(patch, 2)
        decode(squeeze, vq, "--as", "npy", "--out", "maps", "--overwrite", code=1)
    assert content(tmp_path / "maps") == names
    assert "other features" in decode(squeeze, vq, "--as", "npy", "--out", "maps", code=2)
    decode(squeeze, vq, "--as", "npy", "--out", "maps", "--overwrite")
    assert content(tmp_path / "maps") == ["_decoded.json", "features.npy", "names.txt"]
    assert np.array_equal(np.load(tmp_path / "maps" / "features.npy"), wanted)
    decode(squeeze, vq, "--as", "parquet", "--out", "maps", "--overwrite")
    assert content(tmp_path / "maps") == names


@pytest.mark.parametrize("form", ["npy", "parquet"])
@pytest.mark.parametrize("name", ["features.npy", "notes.txt", "_decoded.json", "names.txt"])
def test_files_of_other_programs_are_not_replaced(
    squeeze: Squeeze, vq: Coded, tmp_path: Path, form: str, name: str
) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / name).write_text("{}")
    said = decode(squeeze, vq, "--as", form, "--out", "maps", "--overwrite", code=2)
    assert "holds other files: choose another --out" in said
    assert content(tmp_path / "maps") == [name]
    assert (tmp_path / "maps" / name).read_text() == "{}"


def test_a_name_that_is_no_line_does_not_fit_names_txt(
    squeeze: Squeeze, vq: Coded, tmp_path: Path
) -> None:
    from squeeze_cli.api import open_run

    run = open_run(vq.run, device="cpu")
    codes = run.open(vq.codes / "codes-00000.sqz").read()
    names = ["a\nb", *NAMES[1:PER_SHARD]]
    (tmp_path / "odd.sqz").write_bytes(run.encode(codes, names))
    odd = vq._replace(codes=tmp_path / "odd.sqz")
    said = decode(squeeze, odd, "--as", "npy", "--out", "maps", code=1)
    assert "does not fit a line of names.txt" in said
    assert not (tmp_path / "maps").exists()
    decode(squeeze, odd, "--as", "parquet", "--out", "maps")


def test_options_of_features_are_refused_for_masks_and_pyarrow_is_named(
    squeeze: Squeeze, vq: Coded, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option in (("--as", "npy"), ("--dtype", "float32")):
        said = squeeze(
            "decode", str(vq.codes), "--run", str(vq.run), "--to", "masks", "--out", "m", *option,
            code=2,
        ).stderr  # fmt: skip
        assert "--to features" in said
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = decode(squeeze, vq, "--as", "parquet", "--out", "maps", code=2)
    assert "pip install squeeze-cli[parquet]" in said
