"""From records to rows: differences to the baseline, order, broken runs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from squeeze_cli.errors import UsageError
from squeeze_cli.inference.show import find_baseline
from squeeze_cli.reports.comparison import (
    COLUMNS,
    ComparisonRow,
    compare_runs,
    comparison_csv,
    comparison_markdown,
    on_front,
)
from squeeze_cli.runs import RunFolder, read_runs
from tests.conftest import Squeeze
from tests.records import record, write


def rows(folder: Path, sort: str | None = None) -> list[ComparisonRow]:
    return compare_runs(read_runs([folder]), sort)


def test_a_row_says_what_the_record_says(tmp_path: Path) -> None:
    write(tmp_path, "a", record(0.5))
    (row,) = rows(tmp_path)
    assert (row.name, row.status, row.model, row.quantizer) == (
        "a", "finished", "efficientnet-lite0", "vq",
    )  # fmt: skip
    assert (row.test_iou, row.val_iou, row.test_accuracy) == (0.5, 0.52, 0.75)
    assert row.codebook_usage == 0.9375  # of the level that is used least
    assert (row.epochs, row.seconds, row.seed) == (3, 63.4, 7)
    assert row.difference_to_baseline is None  # there is none


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "failed"},
        {"model": {"encoder": "conv"}},
        {"model": {"add_adapter": True}},
        {"model": {"unfreeze_last_layer": True}},
        {"settings": {"model.feature_dim": 64}},
    ],
)
def test_a_baseline_with_more_than_a_head_is_no_reference_of_any_command(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    write(tmp_path, "q", record(0.5))
    plain, other = record(0.6, kind="baseline"), record(0.9, kind="baseline")
    for key, value in changed.items():
        other[key] = {**other[key], **value} if key == "model" else value
    write(tmp_path, "a-other", other)
    run = RunFolder(tmp_path / "q")
    assert find_baseline(run, run.read_record(), "test") is None
    write(tmp_path, "plain", plain)
    rows = {row.name: row for row in compare_runs(read_runs([tmp_path]))}
    assert rows["q"].difference_to_baseline == pytest.approx(-0.1)
    found = find_baseline(run, run.read_record(), "test")
    assert found is not None
    assert found.name == "plain"


def test_difference_is_to_the_mean_of_baselines_on_the_same_features_and_images(
    tmp_path: Path,
) -> None:
    write(tmp_path, "q", record(0.5))
    write(tmp_path, "b1", record(0.58, kind="baseline", seed=1))
    write(tmp_path, "b2", record(0.62, kind="baseline", seed=2))
    other = record(0.9, kind="baseline")
    other["model"]["weights_digest"] = "w2"
    write(tmp_path, "b3", other)
    smaller = record(0.9, kind="baseline")
    smaller["data"]["image_size_px"] = 128
    write(tmp_path, "b4", smaller)
    padded = record(0.9, kind="baseline")
    padded["data"]["fit"] = "pad"
    write(tmp_path, "b5", padded)
    oblong = record(0.9, kind="baseline")
    oblong["data"]["image_size_px"] = [224, 448]
    write(tmp_path, "b6", oblong)
    elsewhere = record(0.9, kind="baseline", seed=2)  # another seed drew other test images
    elsewhere["data"]["test_digest"] = "t2"
    write(tmp_path, "b7", elsewhere)
    by_name = {row.name: row for row in rows(tmp_path)}
    assert by_name["q"].difference_to_baseline == pytest.approx(-0.1)
    assert by_name["b1"].difference_to_baseline is None
    assert by_name["b1"].quantizer == "baseline"


def test_best_first_or_by_a_column(tmp_path: Path) -> None:
    for name, iou, bits in (("a", 0.4, 9.0), ("b", 0.6, 32.0), ("c", 0.5, 10.0)):
        content = record(iou)
        content["quantizer"]["nominal_bits_per_vector"] = bits
        write(tmp_path, name, content)
    assert [r.name for r in rows(tmp_path)] == ["b", "c", "a"]
    assert [r.name for r in rows(tmp_path, "nominal-bits-per-vector")] == ["a", "c", "b"]
    assert [r.name for r in rows(tmp_path, "name")] == ["a", "b", "c"]
    with pytest.raises(UsageError, match="choose one of name"):
        rows(tmp_path, "colour")


BROKEN = {
    "empty": "",
    "cut": '{"schema_version": 1, "kind": "quan',
    "other": "[1, 2]",
    "newer": '{"schema_version": 99}',
    "lacking": '{"schema_version": 1, "kind": "quantized", "status": "finished"}',
}


def test_broken_and_unfinished_runs_are_listed_as_such(squeeze: Squeeze, tmp_path: Path) -> None:
    write(tmp_path / "runs", "good", record(0.5))
    stopped = record(0.5, status="interrupted")
    stopped["metrics"]["test"] = None
    write(tmp_path / "runs", "stopped", stopped)
    write(tmp_path / "runs", "failed", record(0.5, status="failed", error="ValueError: no"))
    for name, text in BROKEN.items():
        write(tmp_path / "runs", name, text)
    shown = squeeze("compare", "runs").stdout
    assert max(len(line) for line in shown.splitlines()) <= 80
    text = " ".join(shown.split())
    for name in BROKEN:
        assert f"runs/{name} is broken: " in text
    assert "update squeeze" in text
    assert "runs/stopped is interrupted" in text
    assert "runs/failed is failed: ValueError: no" in text
    statuses = {
        r["name"]: r["status"]
        for r in json.loads(squeeze("compare", "runs", "--json").stdout)["runs"]
    }
    assert statuses == {
        "good": "finished", "stopped": "interrupted", "failed": "failed",
        **dict.fromkeys(BROKEN, "broken"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("metrics", "test", {"iou": "high", "accuracy": 0.9}), ("seconds", "total", "long")],
)
def test_a_record_of_other_types_stops_no_comparison(
    squeeze: Squeeze, tmp_path: Path, section: str, name: str, value: Any
) -> None:
    write(tmp_path / "runs", "good", record(0.5))
    odd = record(0.5)
    odd[section][name] = value
    write(tmp_path / "runs", "odd", odd)
    odd["kind"] = "baseline"
    write(tmp_path / "runs", "odd-baseline", odd)
    rows = json.loads(squeeze("compare", "runs", "--json").stdout)["runs"]
    assert {r["name"]: r["status"] for r in rows} == {
        "good": "finished", "odd": "broken", "odd-baseline": "broken",
    }  # fmt: skip


def test_table_fits_80_columns_with_long_names(squeeze: Squeeze, tmp_path: Path) -> None:
    long = record(0.5123, quantizer="rvq")
    long["model"] |= {"random_features": True}
    long["quantizer"] |= {"nominal_bits_per_vector": 65536.0, "nominal_compression_ratio": 11234.0}
    write(tmp_path / "runs", "a-name-of-a-run-that-somebody-thought-would-say-everything", long)
    write(tmp_path / "runs", "b", record(0.5, kind="baseline"))
    shown = squeeze("compare", "runs").stdout
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "51.2" in shown


def test_csv_and_markdown(squeeze: Squeeze, tmp_path: Path) -> None:
    write(tmp_path / "runs", "a", record(0.5))
    write(tmp_path / "runs", "pipe|name", record(0.4))
    squeeze("compare", "runs", "--csv", "out/t.csv", "--markdown", "t.md")
    parsed = list(csv.DictReader(io.StringIO((tmp_path / "out/t.csv").read_text())))
    assert [float(row["test_iou"]) for row in parsed] == [0.5, 0.4]
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert lines[0].count("|") == len(COLUMNS) + 1
    assert lines[2].startswith(
        "| a | eff-lite0 | vq | 9 | 1,138 | – | – | – | – | – | – | 52.0 | 50.0 |"
    )
    assert r"pipe\|name" in lines[3]


def test_nothing_to_compare(squeeze: Squeeze, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert "No runs there yet" in squeeze("compare", "runs").stderr
    assert json.loads(squeeze("compare", "runs", "--json").stdout)["runs"] == []
    assert comparison_csv([]).count("\n") == 1
    assert comparison_markdown([]).startswith("| run |")


def test_runs_are_found_at_any_depth_and_once(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "deep", "a", record(0.5))
    write(tmp_path / "runs", "b", record(0.4))
    found = read_runs([tmp_path, tmp_path / "runs", tmp_path / "runs" / "b"])
    assert [run.name for run, _ in found] == ["b", "a"]


def test_what_is_beaten_in_both_is_not_on_the_front() -> None:
    points = [(9.0, 0.5), (3.0, 0.5), (16.0, 0.6), (16.5, 0.55), (2.0, 0.3)]
    marks = [on_front(point, points) for point in points]
    assert marks == [False, True, True, False, True]


def test_equal_points_do_not_beat_each_other_but_one_figure_better_does() -> None:
    assert on_front((3.0, 0.5), [(3.0, 0.5), (3.0, 0.5)])
    assert not on_front((3.0, 0.5), [(3.0, 0.5), (3.0, 0.6)])
    assert on_front((3.0, 0.6), [(3.0, 0.5), (3.0, 0.6)])
    assert on_front((3.0, 0.6), [])
