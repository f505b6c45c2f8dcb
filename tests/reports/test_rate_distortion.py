"""Rate against distortion: which runs become one point, the front, and the file that is drawn."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from squeeze_cli.errors import SqueezeError
from squeeze_cli.reports.rate_distortion import (
    Panel,
    place_labels,
    rate_distortion,
    rate_distortion_figure,
)
from squeeze_cli.runs import read_runs
from tests.conftest import Squeeze
from tests.records import measured, reconstructed, record, write


def run_of(
    iou: float, bits: float, seed: int = 1, quantizer: str = "vq", sizes: tuple[int, ...] = (512,)
) -> dict:
    made = record(iou, quantizer=quantizer, seed=seed, measured=measured(bits))
    made["quantizer"]["code_sizes"] = list(sizes)
    return made


def panels(folder: Path) -> list[Panel]:
    return rate_distortion(read_runs([folder]))


def test_seeds_of_one_configuration_are_one_point_their_mean(tmp_path: Path) -> None:
    write(tmp_path, "a", run_of(0.50, 3.0, seed=1))
    write(tmp_path, "b", run_of(0.54, 2.5, seed=2))
    write(tmp_path, "c", run_of(0.58, 16.0, quantizer="rvq", sizes=(256,) * 4))
    write(tmp_path, "base", record(0.6, kind="baseline"))
    (panel,) = panels(tmp_path)
    vq, rvq = panel.configurations
    assert vq.point == pytest.approx((2.75, 0.52))
    assert (vq.bits, vq.qualities) == ((3.0, 2.5), (0.50, 0.54))
    assert (vq.label, rvq.label) == ("vq 512", "rvq 4 × 256")
    assert panel.baseline == (0.6,)
    assert panel.front == (vq, rvq)
    assert "efficientnet-lite0, 9 test images" in panel.title


def test_the_front_is_of_the_means(tmp_path: Path) -> None:
    write(tmp_path, "lucky", run_of(0.70, 9.0, seed=1, sizes=(64,)))
    write(tmp_path, "unlucky", run_of(0.40, 9.0, seed=2, sizes=(64,)))
    write(tmp_path, "steady", run_of(0.60, 8.0, quantizer="fsq", sizes=(8, 5, 5)))
    (panel,) = panels(tmp_path)
    assert [c.label for c in panel.front] == ["fsq 8 × 5 × 5"]


def test_runs_without_a_head_have_a_panel_in_decibels(squeeze: Squeeze, tmp_path: Path) -> None:
    write(tmp_path, "segments", run_of(0.5, 3.0))
    write(tmp_path, "a", reconstructed(5.0, measured=measured(3.0)))
    write(tmp_path, "b", reconstructed(10.0, measured=measured(16.0), quantizer="rvq"))
    found = {panel.quality: panel for panel in panels(tmp_path)}
    assert [c.point for c in found["SQNR"].configurations] == [(3.0, 5.0), (16.0, 10.0)]
    assert [c.point for c in found["mean IoU"].configurations] == [(3.0, 0.5)]
    drawn = rate_distortion_figure([found["SQNR"], found["mean IoU"]])
    decibels, percents = drawn.axes
    assert (decibels.get_ylabel(), percents.get_ylabel()) == (
        "test SQNR in dB", "test mean IoU in %",
    )  # fmt: skip
    assert {float(y) for line in decibels.lines for y in line.get_ydata()} == {5.0, 10.0}
    assert {float(y) for line in percents.lines for y in line.get_ydata()} == {0.5}
    assert percents.yaxis.get_major_formatter()(0.5) == "50"
    squeeze("compare", ".", "--plot", "plot.svg")
    assert "test SQNR in dB" in (tmp_path / "plot.svg").read_text()


def test_labels_name_what_differs(tmp_path: Path) -> None:
    for name, loss in (("a", "ce"), ("b", "dice")):
        made = run_of(0.5, 3.0)
        made["model"]["loss"] = loss
        write(tmp_path, name, made)
    (panel,) = panels(tmp_path)
    assert {c.label for c in panel.configurations} == {"vq 512, loss ce", "vq 512, loss dice"}


@pytest.mark.parametrize(
    ("key", "values", "label"),
    [
        ("model.encoder", ("linear", "conv"), "encoder"),
        ("model.reconstruction_weight", (0.0, 0.5), "reconstruction weight"),
        ("model.head", ("conv", "linear"), "head"),
        ("model.class_weights", (None, [1.0, 2.0]), "class weights"),
        ("training.lr", (1e-3, 1e-2), "lr"),
        ("training.batch_size", (4, 8), "batch size"),
        ("quantizer.commitment_weight", (0.25, 1.0), "commitment weight"),
    ],
)
def test_any_other_setting_than_the_seed_is_another_configuration(
    tmp_path: Path, key: str, values: tuple[object, object], label: str
) -> None:
    """The runs have seeds of their own, so that nothing but the setting tells them apart."""
    for seed, value in enumerate(values):
        settings = {"training.seed": seed, "data.data_dir": f"place {seed}", key: value}
        write(tmp_path, f"run{seed}", {**run_of(0.5, 3.0, seed), "settings": settings})
    (panel,) = panels(tmp_path)
    assert {c.label for c in panel.configurations} == {f"vq 512, {label} {v}" for v in values}
    assert [len(c.bits) for c in panel.configurations] == [1, 1]


def test_another_teacher_is_another_configuration(tmp_path: Path) -> None:
    for seed, digest in enumerate((None, "a" * 32, "b" * 32)):
        made = run_of(0.5, 3.0, seed)
        made["model"]["teacher_digest"] = digest
        write(tmp_path, f"run{seed}", made)
    assert len(panels(tmp_path)[0].configurations) == 3


def test_a_seed_that_comes_twice_hides_a_difference_so_nothing_is_averaged(tmp_path: Path) -> None:
    for name, iou in (("slow", 0.5), ("fast", 0.6)):
        write(tmp_path, name, {**run_of(iou, 3.0, seed=1), "name": name})
    (panel,) = panels(tmp_path)
    assert {c.label: c.qualities for c in panel.configurations} == {"slow": (0.5,), "fast": (0.6,)}


def test_other_features_are_another_panel(tmp_path: Path) -> None:
    write(tmp_path, "a", run_of(0.5, 3.0))
    other = run_of(0.5, 3.0)
    other["model"] |= {"weights_digest": "w2", "backbone": "vit", "random_features": True}
    write(tmp_path, "b", other)
    titles = {panel.title.split(",")[0] for panel in panels(tmp_path)}
    assert titles == {"efficientnet-lite0", "vit (random features)"}


def test_without_measured_bits_there_is_nothing_to_plot(tmp_path: Path) -> None:
    write(tmp_path, "older", record(0.5))
    write(tmp_path, "none", record(0.5, measured=None))
    write(tmp_path, "stopped", {**run_of(0.5, 3.0), "status": "interrupted"})
    write(tmp_path, "cut", '{"schema_version": 1, "status": "finished"}')
    with pytest.raises(SqueezeError, match="none of these runs is finished and has measured bits"):
        panels(tmp_path)


def test_labels_of_close_points_do_not_overlap_and_stay_in_the_axes() -> None:
    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.subplots()
    points = [(1.0, 1.0), (1.02, 1.01), (1.01, 0.97), (9.9, 5.0), (0.1, 5.0)]
    axis.plot([0, 10], [0, 10], "-")
    for x, y in points:
        axis.plot([x], [y], "o")
    axis.set_xlim(0, 10)
    figure.draw_without_rendering()
    place_labels(axis, [(x, y, f"label {n}") for n, (x, y) in enumerate(points)])
    assert [text.get_text() for text in axis.texts] == [f"label {n}" for n in range(5)]
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    frame = axis.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (1, 2):
        write(tmp_path / "runs", f"v{seed}", run_of(0.5 + seed / 100, 3.0, seed))
        write(tmp_path / "runs", f"b{seed}", record(0.6 + seed / 100, kind="baseline", seed=seed))
    write(tmp_path / "runs", "r", run_of(0.58, 16.0, quantizer="rvq", sizes=(256,) * 4))
    return tmp_path


@pytest.mark.parametrize("count", [1, 3])
def test_png_of_one_panel_or_several(squeeze: Squeeze, runs: Path, count: int) -> None:
    for number in range(1, count):
        other = run_of(0.5, 3.0)
        other["model"]["weights_digest"] = f"w{number + 1}"
        write(runs / "runs", f"other{number}", other)
    done = squeeze("compare", "runs", "--plot", "out/plot.PNG")
    assert "Wrote out/plot.PNG" in done.stderr
    assert "front" in done.stdout
    with Image.open(runs / "out" / "plot.PNG") as image:
        assert image.format == "PNG"
        assert image.width > image.height
        assert len(set(image.convert("L").resize((64, 48)).tobytes())) > 5  # not a blank sheet
    assert [path.name for path in (runs / "out").iterdir()] == ["plot.PNG"]


def test_svg_is_the_same_each_time(squeeze: Squeeze, runs: Path) -> None:
    squeeze("compare", "runs", "--json", "--plot", "a.svg")
    squeeze("compare", "runs", "--json", "--plot", "b.svg")
    assert (runs / "a.svg").read_bytes() == (runs / "b.svg").read_bytes()
    assert b"</svg>" in (runs / "a.svg").read_bytes()


def test_a_place_that_cannot_be_written_is_a_plain_error(squeeze: Squeeze, runs: Path) -> None:
    (runs / "file").write_text("in the way")
    done = squeeze("compare", "runs", "--json", "--plot", "file/plot.png", code=1)
    assert done.stderr.startswith("Error: Cannot write file/plot.png (")
    assert (runs / "file").read_text() == "in the way"


def test_another_ending_is_refused_before_anything_is_read(squeeze: Squeeze, runs: Path) -> None:
    for name in ("plot.jpg", "plot"):
        done = squeeze("compare", "nowhere", "--plot", name, code=2)
        assert ".png or .svg" in done.stderr
        assert not (runs / name).exists()


def test_a_failed_plot_leaves_no_file_and_the_table_is_shown(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    write(tmp_path / "runs", "older", record(0.5))
    done = squeeze("compare", "runs", "--plot", "plot.png", code=1)
    assert "Nothing to plot" in done.stderr
    assert "older" in done.stdout
    assert not (tmp_path / "plot.png").exists()
