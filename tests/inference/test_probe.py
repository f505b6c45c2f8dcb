"""`squeeze evaluate --probe`: linear probes for labels of images, on original and decoded features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from squeeze_cli.data.samples import FileSample
from squeeze_cli.inference.evaluation import probe_features
from tests.conftest import Squeeze

C, CLASSES, TRAINED, TESTED = 5, 3, 60, 500


def overlapping(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Vectors `[n, C]` of classes that overlap, of unlike scales, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % CLASSES
    centres = torch.randn(CLASSES, C, generator=torch.Generator().manual_seed(9))
    vectors = 0.8 * centres[classes] + torch.randn(count, C, generator=generator)
    return vectors * torch.tensor([1.0, 30, 0.1, 1, 1]) + 7, classes


def plain_accuracy(train: Tensor, classes: Tensor, test: Tensor, expected: Tensor) -> float:
    """The same objective by many steps of plain gradient descent."""
    mean, std = train.mean(dim=0), train.std(dim=0, correction=0)
    inputs, tested = (train - mean) / std, (test - mean) / std
    layer = torch.nn.Linear(C, CLASSES)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3)
    for _ in range(2000):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(inputs), classes)
        (loss + layer.weight.square().sum() / 2 / len(inputs)).backward()
        optimizer.step()
    return (layer(tested).argmax(dim=1) == expected).double().mean().item()


def test_a_probe_is_a_regularized_logistic_regression() -> None:
    (train, classes), (test, expected) = overlapping(TRAINED, 0), overlapping(TESTED, 1)
    names = "zya"  # the order of labels is not that of classes
    samples = [
        [FileSample(f"{split}{i}", Path()) for i in range(n)]
        for split, n in (("train", TRAINED), ("test", TESTED))
    ]
    labels = {f"train{i}": names[k] for i, k in enumerate(classes.tolist())}
    labels |= {f"test{i}": names[k] for i, k in enumerate(expected.tolist()) if i % 7}
    labelled = torch.arange(TESTED) % 7 != 0
    noise = torch.randn(TRAINED + TESTED, C, generator=torch.Generator().manual_seed(2))
    pairs = [
        list(torch.cat([vectors, other], dim=1))
        for vectors, other in ((train, noise[:TRAINED]), (test, noise[TRAINED:]))
    ]
    found = probe_features(labels, (samples[0], pairs[0]), (samples[1], pairs[1]))
    plain = plain_accuracy(train, classes, test[labelled], expected[labelled])
    assert 0.6 < plain < 0.95
    assert found.original == pytest.approx(plain, abs=1.5 / TESTED)
    assert found.decoded == pytest.approx(1 / CLASSES, abs=0.08)
    assert (found.labels, found.train_images, found.images) == (3, TRAINED, int(labelled.sum()))
    again = probe_features(labels, (samples[0], pairs[0]), (samples[1], pairs[1]))
    assert again == found


def test_given_features_are_probed_by_the_names_of_their_files(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    """Names are there with suffixes, and labels with commas; both measures are of the same images."""
    dice = np.random.default_rng(0)
    (tmp_path / "f").mkdir()
    rows = ["file,class"]
    for number in range(80):
        vectors = dice.normal(size=(2, 3, 6)).astype(np.float32)
        vectors[..., 5] += 5 * (number % 2)
        np.save(tmp_path / "f" / f"{number}.npy", vectors)
        rows.append(f'{number}.npy,"{"big, round" if number % 2 else "small"}"')
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    train = ("train", "--features", "f", "--quantizer", "fsq", "--epochs", "1", "--quiet")
    squeeze(*train, "--bottleneck-dim", "4", "--max-batches", "1", "--name", "it")
    shown = squeeze("evaluate", "runs/it", "--probe", "labels.csv", "--neighbours", "--json")
    assert shown.stderr.count("Warning") == 0
    result = json.loads(shown.stdout)
    probe = result["probe"]
    assert (probe["labels"], probe["train_images"], probe["images"]) == (2, 51, 16)
    assert probe["original"] == 1
    assert 0 <= probe["decoded"] <= 1
    assert 10 / 15 < result["metrics"]["neighbours_images"] < 1
    assert 0 < result["metrics"]["neighbours_patches"] < 1
    table = squeeze("evaluate", "runs/it", "--probe", "labels.csv", "--split", "val").stdout
    assert "accuracy 100.0 % on original" in " ".join(table.split())
    assert "2 labels of 51 training images, 13 tested" in " ".join(table.split())
    assert "neighbours" not in table
