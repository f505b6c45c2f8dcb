"""The functions of `squeeze_cli.api`: what a program of one's own calls."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from squeeze_cli import api
from squeeze_cli.cli import app
from squeeze_cli.commands.inference import ExtractionOptions
from squeeze_cli.config.record import FinishedRecord
from squeeze_cli.config.resolve import write_config
from squeeze_cli.config.schema import DataConfig, ExperimentConfig, QuantizerConfig, TrainingConfig
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.inference.request import Extraction
from squeeze_cli.runs import RunFolder

LFQ_OF_20 = ExperimentConfig(quantizer=QuantizerConfig(codebook_size=20))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: `q` (vq), on 20 + 20 drawn images at 64 px."""
    folder = tmp_path_factory.mktemp("api")
    data = DataConfig(image_size=64, subset_size=20, cache_dir=str(folder / "cache"))
    config = ExperimentConfig(quantizer=QuantizerConfig(codebook_size=16), data=data)
    record = api.train(
        "vq", "efficientnet-lite0", dataset="synthetic", epochs=1, output_dir=folder / "runs",
        name="q", config=config,
    )  # fmt: skip
    assert (record.name, record.status, record.quantizer.code_sizes) == ("q", "finished", [16])
    assert record == RunFolder(folder / "runs" / "q").read_finished()
    return folder / "runs"


def test_settings_that_the_quantizer_ignores_are_refused(tmp_path: Path) -> None:
    """A run that was written with them could not be opened."""
    config = ExperimentConfig(quantizer=QuantizerConfig(num_quantizers=2))
    with pytest.raises(UsageError, match="num_quantizers has no effect for type 'vq'"):
        api.train("vq", "efficientnet-lite0", output_dir=tmp_path / "runs", config=config)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_baseline_is_trained_by_its_kind_and_a_taken_name_is_refused(
    runs: Path, tmp_path: Path
) -> None:
    data = DataConfig(image_size=64, subset_size=20, cache_dir=str(runs.parent / "cache"))
    file = tmp_path / "baseline.yaml"
    write_config(file, ExperimentConfig(kind="baseline", data=data))

    def train(config: ExperimentConfig | str | Path = file, **settings: Any) -> FinishedRecord:
        return api.train(
            model="efficientnet-lite0", dataset="synthetic", epochs=1, output_dir=tmp_path,
            name="b", config=config, **settings,
        )  # fmt: skip

    assert train().kind == "baseline"
    with pytest.raises(UsageError, match="--overwrite"):
        train()
    assert train(str(file), overwrite=True, seed=3).seed == 3
    with pytest.raises(UsageError, match="--config quickstar is neither a file nor an example"):
        train("quickstar")


def test_settings_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    for settings in (
        {"quantizer": "vx"},
        {"epochs": 0},
        {"quantizer": "lfq", "config": LFQ_OF_20},
        {"config": ExperimentConfig(training=TrainingConfig(devices=2))},
    ):
        with pytest.raises(UsageError):
            api.train(output_dir=tmp_path / "runs", **settings)
    assert not (tmp_path / "runs").exists()


def test_codes_of_a_folder_of_images_come_back_as_features_and_masks(
    runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "holiday").mkdir()
    for name, colour in (("a", (200, 10, 10)), ("b", (10, 200, 90)), ("c", (0, 0, 0))):
        Image.new("RGB", (70, 90), colour).save(tmp_path / "holiday" / f"{name}.png")
    summary = api.extract(
        runs / "q", images=tmp_path / "holiday", out=tmp_path / "codes", num_workers=0, device="cpu"
    )
    assert (summary.images, summary.vectors, summary.coding) == (3, 48, "prior")
    assert summary.bits_per_vector == pytest.approx(8 * summary.file_bytes / 48)
    run = api.open_run(runs / "q", device="cpu")
    file = run.open(tmp_path / "codes" / "codes-00000.sqz")
    ((names, codes),) = file.batches()
    assert names == ("a", "b", "c")
    assert codes.shape == (3, 4, 4, 1)
    features = run.features(codes)
    assert features.shape == (3, 320, 4, 4)
    assert np.array_equal(run.codes(features), codes)
    assert run.to_output(features).shape == features.shape
    masks = run.masks(codes)
    assert (masks.shape, masks.dtype) == ((3, 64, 64), np.uint8)
    for wrong in (codes - codes.max() - 1, codes + 100_000, codes / 2, codes[..., [0, 0]]):
        for decode in (run.masks, run.features, run.vectors):
            with pytest.raises(SqueezeError, match="from 0 to"):
                decode(wrong)
    (tmp_path / "again.sqz").write_bytes(run.encode(codes, names))
    assert np.array_equal(run.open(tmp_path / "again.sqz").read(), codes)


def test_requests_of_an_extraction_have_the_same_defaults() -> None:
    defaults = {field.name: field.default for field in fields(Extraction)}
    assert {field.name: field.default for field in fields(ExtractionOptions)} == defaults
    parameters = inspect.signature(api.extract).parameters
    given = {name: parameters[name].default for name in defaults}
    # Workers import the calling script, so that a function makes none unless asked.
    assert given == {**defaults, "num_workers": 0}


def test_a_split_is_extracted_as_the_command_does(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    summary = api.extract(runs / "q", split="val", coding="packed", out="val")
    assert (summary.images, summary.coding) == (4, "packed")
    arguments = ["extract-embeddings", str(runs / "q"), "--split", "val", "--coding", "packed"]
    done = CliRunner().invoke(app, [*arguments, "--out", "val", "--json", "--quiet"])
    assert json.loads(done.stdout) == summary.model_dump(exclude_unset=True)


def test_contradictions_are_refused(runs: Path) -> None:
    with pytest.raises(UsageError, match="contradict"):
        api.extract(runs / "q", images=".", split="val")
    for name, least in (("num_workers", -1), ("images_per_shard", 0)):
        with pytest.raises(
            UsageError, match=rf"--{name.replace('_', '-')} is at least {least + 1}"
        ):
            api.extract(runs / "q", images=".", **{name: least})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--coding"):
        api.extract(runs / "q", content="features", coding="prior")
    for unknown in ({"split": "tset"}, {"content": "code"}, {"coding": "priors"}):
        with pytest.raises(UsageError, match="did you mean"):
            api.extract(runs / "q", **unknown)  # type: ignore[arg-type]


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SqueezeError, match=r"holds no run\.json"):
        api.open_run(tmp_path)
    with pytest.raises(SqueezeError, match="no folder"):
        api.compare([tmp_path / "nowhere"])


def test_another_default_type_of_torch_is_refused(
    runs: Path, request: pytest.FixtureRequest
) -> None:
    """Its parameters would be others than those that were trained."""
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    torch.set_default_dtype(torch.float64)
    with pytest.raises(UsageError, match=r"default dtype is torch\.float64: set it back"):
        _ = api.open_run(runs / "q").codes(np.zeros((1, 3, 64, 64), np.uint8))
    with pytest.raises(UsageError, match=r"set it back to torch\.float32"):
        api.train("vq", "efficientnet-lite0", dataset="synthetic", output_dir=runs.parent, name="d")
    assert not (runs.parent / "d").exists()


def test_compare_gives_a_row_per_run(runs: Path) -> None:
    (row,) = api.compare([runs])
    assert api.compare(str(runs)) == api.compare(runs) == [row]
    assert (row.name, row.status, row.quantizer) == ("q", "finished", "vq")
    assert row.test_iou is not None
    with pytest.raises(UsageError, match="--sort"):
        api.compare([runs], sort="colour")


def test_codes_are_taken_as_tensors_and_refused_in_another_shape(
    runs: Path, tmp_path: Path
) -> None:
    """A `CodesDataset` of codes gives tensors, and its items have no batch."""
    api.extract(runs / "q", split="val", out=tmp_path / "codes", images_per_shard=np.int64(3))  # type: ignore[arg-type]
    data, run = (
        api.CodesDataset(tmp_path / "codes", "codes", run=runs / "q"),
        api.open_run(runs / "q"),
    )
    codes = torch.stack([data[index] for index in range(4)])
    assert torch.equal(run.features(codes), run.features(codes.numpy()))
    assert np.array_equal(run.masks(codes), run.masks(codes.numpy()))
    assert torch.equal(run.vectors(codes), run.vectors(codes.numpy()))
    assert run.encode(codes, data.names) == run.encode(codes.numpy(), data.names)
    with pytest.raises(UsageError, match="The coding 'zip' is unknown: use prior or packed"):
        run.encode(codes, data.names, coding="zip")
    for decode in (run.features, run.masks, run.vectors, lambda one: run.encode(one, data.names)):
        with pytest.raises(SqueezeError, match=r"\[B, rows, columns, Q\] from 0 to"):
            decode(codes[0])  # type: ignore[no-untyped-call]


def test_a_size_of_shards_that_is_no_whole_number_is_refused(runs: Path) -> None:
    for size in (2.5, "3"):
        with pytest.raises(UsageError, match="--images-per-shard is at least 1, a whole number"):
            api.extract(runs / "q", images_per_shard=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, 3])
def test_a_request_holds_no_integers_of_numpy(number: int) -> None:
    request = Extraction(num_workers=np.int64(number))  # type: ignore[arg-type]
    assert (request.num_workers, type(request.num_workers)) == (number, int)


def test_a_checkpoint_that_is_missing_is_named(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "q", tmp_path / "q")
    (tmp_path / "q" / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(SqueezeError, match=r"best\.ckpt is missing: restore it"):
        api.open_run(tmp_path / "q")


def test_a_run_whose_name_is_not_utf8_is_compared_in_files(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"r\xff")
    folder.mkdir()
    shutil.copy(runs / "q" / "run.json", folder)
    files = [str(tmp_path / "c.csv"), str(tmp_path / "c.md")]
    arguments = ["compare", str(tmp_path), "--csv", files[0], "--markdown", files[1], "--quiet"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert all(r"r\udcff" in Path(file).read_text(encoding="utf-8") for file in files)
