"""Images that are not squares, through the real executable: codes, masks, record and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from squeeze_cli.api import open_run
from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.config.schema import Fit
from squeeze_cli.console import Reporter
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.transforms import Preprocessing
from tests.conftest import Squeeze

FLAGS = (
    "train", "--model", "efficientnet-lite0", "--image-size", "64x128", "--epochs", "1",
    "--num-workers", "0", "--no-progress", "--name", "it",
)  # fmt: skip


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_run_on_images_of_other_proportions(
    squeeze: Squeeze, tmp_path: Path, tiny_pets: Path, fit: Fit
) -> None:
    """The photographs have 47 x 31 pixels: 63 of 64 rows are picture where 96 columns are."""
    squeeze(*FLAGS, "--fit", fit, "--data-dir", str(tiny_pets))
    run = tmp_path / "runs" / "it"
    record = json.loads((run / "run.json").read_text())
    assert (record["data"]["image_size_px"], record["data"]["fit"]) == ([64, 128], fit)
    assert record["quantizer"]["grid"] == [4, 8]
    squeeze("decode", str(run / "codes" / "test.sqz"), "--to", "masks", "--out", "masks")
    with Image.open(tmp_path / "masks" / "Bengal_1.png") as mask:
        assert mask.size == (128, 64)
    opened = open_run(run)
    data = opened.data({"test": opened.splits(Reporter(quiet=True)).test}, Reporter(quiet=True))
    _, labels, _ = data.batch("test", [1])
    padding = (labels[0].numpy() == IGNORE_INDEX).all(axis=0)
    assert padding.sum() == (128 - round(64 / 31 * 47) if fit == "pad" else 0)
    assert np.all(padding[-1:] == (fit == "pad"))


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_pictures_show_what_the_network_was_given(
    squeeze_here: Squeeze,
    tmp_path: Path,
    tiny_pets: Path,
    fit: Fit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures: dict[str, Figure] = {}
    for module in ("training.figures", "inference.show"):
        monkeypatch.setattr(
            f"squeeze_cli.{module}.save_figure",
            lambda figure, file, *_: figures.update({Path(file).stem: figure}),
        )
    monkeypatch.setattr("squeeze_cli.trackers.loggers.add_pictures", lambda *_: None)
    squeeze_here(*FLAGS, "--fit", fit, "--data-dir", str(tiny_pets))
    run = tmp_path / "runs" / "it"
    squeeze_here("show", str(run))
    splits = open_run(run).splits(Reporter(quiet=True))
    for name, samples in (("predictions", splits.val), ("show-test-spread", splits.test)):
        columns = [axis.get_title() for axis in figures[name].axes if axis.get_title()]
        by_name = {sample.name: sample for sample in samples}
        assert set(columns) <= set(by_name)
        for number, column in enumerate(columns):
            assert_drawn(figures[name].axes[number :: len(columns)], by_name[column], fit)


def assert_drawn(axes: list[Axes], sample: Sample, fit: Fit) -> None:
    """The rows of a column show the pixels and classes that the network was given."""
    preprocessing = Preprocessing((64, 128), fit)
    image = sample.read().decode()
    pixels = preprocessing.pixels(image).numpy()
    for axis in axes:
        assert np.array_equal(axis.images[0].get_array(), pixels)
    assert sample.labels is not None
    classes = preprocessing.mask(Image.fromarray(sample.labels.plane())).numpy()
    shown = axes[1].images[1].get_array()[..., 3] > 0
    assert np.array_equal(shown, (classes == 0) | (classes == 2))  # all but background and padding
    if fit == "pad":
        assert np.all(pixels[:, 97:] == (124, 116, 104))


def test_padding_is_in_no_statistic(squeeze: Squeeze, tmp_path: Path, tiny_pets: Path) -> None:
    """The last of eight columns of vectors is padding."""
    squeeze(
        "train", "--model", "efficientnet-lite0", "--image-size", "64x128", "--fit", "pad",
        "--data-dir", str(tiny_pets), "--epochs", "1", "--num-workers", "0", "--no-progress",
        "--name", "it", "--cache-dir", str(tmp_path / "cache"), "--loss", "reconstruction",
        "--codebook-size", "16", "--bottleneck-dim", "8",
    )  # fmt: skip
    opened = open_run(tmp_path / "runs" / "it")
    splits = opened.splits(Reporter(quiet=True))
    data = opened.data({"train": splits.train}, Reporter(quiet=True))
    states, _, _ = data.batch("train", range(len(splits.train)))
    seen = states[..., :7].permute(1, 0, 2, 3).flatten(1).mean(dim=1)
    torch.testing.assert_close(opened.network.normalizer.mean, seen, rtol=1e-4, atol=1e-4)
    measured = json.loads(squeeze("evaluate", "runs/it", "--json").stdout)["metrics"]
    summary = json.loads(squeeze("extract-embeddings", "runs/it", "--json").stdout)
    for name in ("mse", "cosine"):
        assert summary[name] == pytest.approx(measured[name], rel=1e-5)
