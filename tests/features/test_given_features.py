"""`--features`: training on and extracting from features that somebody else computed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from squeeze_cli.api import open_run
from squeeze_cli.console import Reporter
from tests.conftest import Squeeze

N, H, W, C = 30, 3, 4, 16
SMALL = (
    "--bottleneck-dim", "8", "--codebook-size", "16", "--epochs", "2", "--no-progress",
    "--output-dir", "runs",
)  # fmt: skip
IMAGES = (
    "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "12", "--num-workers", "0", "--codebook-size", "16", "--epochs", "1",
    "--no-progress", "--loss", "reconstruction",
)  # fmt: skip


def features(seed: int = 0) -> torch.Tensor:
    """Feature maps that lie near a plane of few dimensions, not normalized."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.randn(4, C, generator=generator)
    maps = torch.randn(N, H, W, 4, generator=generator) @ axes
    return (3 * maps + 0.1 * torch.randn(N, H, W, C, generator=generator) + 5).half().float()


def record(name: str, folder: Path) -> dict:
    return json.loads((folder / "runs" / name / "run.json").read_text())


def load_splits_of(run: Path) -> dict[str, list[str]]:
    """The names in each split of a run's images."""
    splits = open_run(run).splits(Reporter(quiet=True))
    return {name: [each.name for each in split] for name, split in splits.named().items()}


def line(result: subprocess.CompletedProcess[str]) -> str:
    """The error, which is one line."""
    progress = ("Training ", "Checking features ")
    (only,) = [each for each in result.stderr.splitlines() if not each.startswith(progress)]
    return only


def test_a_run_on_given_features(squeeze: Squeeze, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", features().half().numpy())
    (tmp_path / "names.txt").write_text("".join(f"image {i}\n" for i in range(N)))
    given = ("--features", "x.npy", "--feature-names", "names.txt")
    done = squeeze("train", *given, *SMALL, "--name", "it")
    assert "features" in done.stdout
    assert "None" not in done.stdout
    run = record("it", tmp_path)
    assert run["model"]["backbone"] == run["data"]["dataset"] == "features"
    assert (run["model"]["loss"], run["model"]["feature_dim"]) == ("reconstruction", C)
    assert (run["quantizer"]["grid"], run["data"]["image_size_px"]) == ([H, W], None)
    counts = [run["data"][f"{split}_images"] for split in ("train", "val", "test")]
    assert counts == [19, 5, 6]  # a fifth for the test, then a fifth of the rest
    test = run["measured"]["test"]
    assert (test["bits_per_pixel"], test["images"], test["vectors"]) == (None, 6, 6 * H * W)
    opened = open_run(tmp_path / "runs" / "it")
    names = opened.open(tmp_path / "runs" / "it" / test["file"]).names
    assert all(name.startswith("image ") for name in names)
    assert not (tmp_path / "cache").exists()
    # What the codes decode to, in the features' own scale, has the recorded error.
    rows = torch.tensor([int(name.split()[1]) for name in names])
    originals = features()[rows].permute(0, 3, 1, 2)
    ((_, codes),) = opened.open(tmp_path / "runs" / "it" / test["file"]).batches()
    error = opened.network.normalizer(originals) - opened.features(codes)
    assert error.square().mean().item() == pytest.approx(run["metrics"]["test"]["mse"], rel=1e-4)
    assert run["metrics"]["test"]["mse"] < 0.7
    again = json.loads(squeeze("evaluate", "runs/it", "--json", "--no-progress").stdout)
    assert again["metrics"]["mse"] == pytest.approx(run["metrics"]["test"]["mse"], rel=1e-5)
    squeeze("extract-embeddings", "runs/it", "--out", "codes", "--no-progress")
    assert "bits_per_pixel" not in [
        key
        for key, value in json.loads(
            squeeze("extract-embeddings", "runs/it", "--out", "codes", "--json").stdout
        ).items()
        if value is not None
    ]
    (row,) = json.loads(squeeze("compare", "runs", "--json").stdout)["runs"]
    assert (row["model"], row["test_mse"]) == ("features", run["metrics"]["test"]["mse"])


def test_the_kind_of_file_makes_no_difference(squeeze: Squeeze, tmp_path: Path) -> None:
    """The values are exact in bfloat16, too; the names are the same in all."""
    values = (features() * 4).round().clamp(-127, 127)
    np.save(tmp_path / "x.npy", values.half().numpy())
    np.savez_compressed(tmp_path / "x.npz", features=values.double().numpy())
    save_file({"features": values.bfloat16()}, tmp_path / "x.safetensors")
    (tmp_path / "folder").mkdir()
    for row, each in enumerate(values):
        np.save(tmp_path / "folder" / f"{row:02d}.npy", each.numpy())
    paths = ("x.npy", "x.npz", "x.safetensors", "folder")
    for number, path in enumerate(paths):
        squeeze("train", "--features", path, *SMALL, "--name", str(number))
    runs = [record(str(number), tmp_path) for number in range(len(paths))]
    assert len({run["digest"] for run in runs}) == 1
    assert len({run["data"]["digest"] for run in runs}) == 1
    assert len({run["model"]["weights_digest"] for run in runs}) == 1
    assert all(run["metrics"] == runs[0]["metrics"] for run in runs)


def test_another_seed_has_other_splits_and_is_compared_on_the_same_features(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", features().numpy())
    for seed in ("1", "2"):
        squeeze("train", "--features", "x.npy", *SMALL, "--seed", seed, "--name", seed)
    one, two = record("1", tmp_path), record("2", tmp_path)
    assert one["data"]["digest"] != two["data"]["digest"]
    assert one["model"]["weights_digest"] == two["model"]["weights_digest"]


def test_vectors_are_trained_on(squeeze: Squeeze, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", features().reshape(-1, C).numpy())
    squeeze("train", "--features", "x.npy", *SMALL, "--batch-size", "64", "--name", "it")
    run = record("it", tmp_path)
    assert run["quantizer"]["grid"] == [1, 1]
    assert run["measured"]["test"]["vectors"] == N * H * W // 5
    assert run["metrics"]["test"]["mse"] < 0.7


def test_extracted_features_give_the_codes_of_their_images(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    squeeze("train", *IMAGES, "--name", "it")
    extract = ("extract-embeddings", "runs/it", "--no-progress", "--json")
    ours = json.loads(squeeze(*extract, "--out", "a").stdout)
    squeeze(*extract, "--format", "features", "--out", "shards")
    theirs = json.loads(squeeze(*extract, "--features", "shards", "--out", "b").stdout)
    for name in ("mse", "cosine"):
        assert theirs[name] == pytest.approx(ours[name], rel=1e-6)
    file = "codes-00000.sqz"
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    # The shards are channels first; a file of channels last is the same.
    maps = load_file(tmp_path / "shards" / "features-00000.safetensors")["embeddings"]
    np.save(tmp_path / "last.npy", maps.permute(0, 2, 3, 1).numpy())
    names = open_run(tmp_path / "runs" / "it").open(tmp_path / "a" / file).names
    (tmp_path / "names.txt").write_text("\n".join(names))
    squeeze(*extract, "--features", "last.npy", "--feature-names", "names.txt", "--out", "c")
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "c" / file).read_bytes()
    np.save(tmp_path / "wide.npy", np.zeros((2, 4, 4, 321), np.float32))
    found = line(squeeze(*extract, "--features", "wide.npy", "--out", "d", code=1))
    assert "4 x 4 x 321 each" in found
    assert "4 x 4 x 320" in found
    assert "contradict" in line(squeeze(*extract, "--features", "a", "--split", "val", code=2))
    assert "holds codes" in line(squeeze(*extract, "--features", "a", "--out", "d", code=1))


def test_training_on_extracted_features_is_training_on_their_images(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    """With the same splits: the same weights, errors and codes."""
    squeeze("train", *IMAGES, "--name", "images")
    squeeze(
        "extract-embeddings", "runs/images", "--split", "all", "--format", "features",
        "--out", "shards", "--no-progress",
    )  # fmt: skip
    splits = load_splits_of(tmp_path / "runs" / "images")
    lines = [f"{name} {split}" for split, names in splits.items() for name in names]
    (tmp_path / "splits.txt").write_text("\n".join(lines))
    squeeze(
        "train", "--features", "shards", "--split-file", "splits.txt", "--codebook-size", "16",
        "--epochs", "1", "--no-progress", "--name", "features",
    )  # fmt: skip
    images, given = record("images", tmp_path), record("features", tmp_path)
    assert given["digest"] == images["digest"]
    assert given["metrics"] == images["metrics"]
    file = "codes/test.sqz"
    ours, theirs = (tmp_path / "runs" / name / file for name in ("images", "features"))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("rows", [2, 3])
def test_maps_with_their_channels_first_are_a_warning(
    squeeze: Squeeze, tmp_path: Path, rows: int
) -> None:
    np.save(tmp_path / "x.npy", features()[:, :rows, :3].permute(0, 3, 1, 2).numpy())
    small = ("--bottleneck-dim", "2", "--codebook-size", "4", "--epochs", "1", "--no-progress")
    done = squeeze("train", "--features", "x.npy", *small)
    assert (
        f"maps of 16 x {rows} vectors with 3 channels: if they are [C, h, w], transpose"
        in done.stderr
    )


def test_features_that_changed_are_not_evaluated(squeeze: Squeeze, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", features().numpy())
    squeeze("train", "--features", "x.npy", *SMALL, "--name", "it")
    np.save(tmp_path / "x.npy", features(seed=1).numpy())
    assert "are not those that" in line(squeeze("evaluate", "runs/it", code=1))
    squeeze("extract-embeddings", "runs/it", "--features", "x.npy", "--no-progress")
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "x.npy", np.full((N, H, W, C), np.nan, np.float32))
    found = line(squeeze("train", "--features", "x.npy", *SMALL, "--name", "nan", code=1))
    assert "30 of 30 feature maps hold values that are not finite, such as row 0 of x.npy" in found
    assert not (tmp_path / "runs" / "nan").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--features", "x.npy", "--loss", "ce"), "needs masks"),
        (("train", "--features", "x.npy", "--model", "vit"), "--model has no effect"),
        (("train", "--features", "x.npy", "--image-size", "64"), "--image-size has no effect"),
        (("train", "--features", "x.npy", "--cache-dir", "c"), "--cache-dir has no effect"),
        (("train", "--features", "x.npy", "--quantizer", "none"), "unquantized features have none"),
        (("baseline", "--features", "x.npy"), "unquantized features have none"),
        (("train", "--feature-names", "n.txt"), "choose --dataset features"),
        (("train", "--model", "features"), "Unknown backbone 'features'"),
        (("extract-embeddings", "runs/it", "--feature-names", "n"), "without --features"),
    ],
)
def test_what_means_nothing_is_refused(
    squeeze: Squeeze, arguments: tuple[str, ...], words: str
) -> None:
    assert words in line(squeeze(*arguments, code=2))


def test_a_file_of_settings_that_names_features_of_another_data_set_is_refused(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", features().numpy())
    (tmp_path / "c.yaml").write_text("data: {dataset: oxford-pet, features: x.npy}\n")
    found = line(squeeze("train", "--config", "c.yaml", *SMALL, code=2))
    assert "--features has no effect with --dataset oxford-pet" in found


def test_features_that_moved_are_named_with_the_setting(squeeze: Squeeze, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", features().numpy())
    squeeze("train", "--features", "x.npy", *SMALL, "--name", "it")
    (tmp_path / "x.npy").rename(tmp_path / "y.npy")
    for command in (("evaluate",), ("extract-embeddings", "--split", "val")):
        found = line(squeeze(*command, "runs/it", code=1))
        assert "There is no x.npy, the --features of runs/it" in found
        assert "write its new place as `features` into runs/it/config.yaml" in found
    config = tmp_path / "runs" / "it" / "config.yaml"
    config.write_text(config.read_text().replace("x.npy", "y.npy"))
    squeeze("extract-embeddings", "runs/it", "--split", "val", "--no-progress")


def test_too_few_features_are_refused(squeeze: Squeeze, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", features()[:2].numpy())
    assert "provide 2 or more to train on" in line(
        squeeze("train", "--features", "x.npy", *SMALL, code=1)
    )
