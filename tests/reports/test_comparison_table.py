"""Measured rates in `squeeze compare`: columns, retention, the front, what fits a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from squeeze_cli.reports.comparison import (
    COLUMNS,
    ComparisonRow,
    compare_runs,
    comparison_markdown,
    comparison_table,
)
from squeeze_cli.runs import read_runs
from tests.conftest import Squeeze
from tests.records import measured, reconstructed, record, write


def rows(folder: Path, sort: str | None = None) -> dict[str, ComparisonRow]:
    return {row.name: row for row in compare_runs(read_runs([folder]), sort)}


def shown(rows: list[ComparisonRow], width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(comparison_table(rows, width))
    return capture.get().splitlines()


def test_measured_rates_are_those_of_the_test_file(tmp_path: Path) -> None:
    write(tmp_path, "a", record(0.5, measured=measured(2.75)))
    write(tmp_path, "none", record(0.5, measured=None))
    write(tmp_path, "older", record(0.5))
    by_name = rows(tmp_path)
    a = by_name["a"]
    assert (a.measured_bits_per_vector, a.measured_bytes_per_image) == (2.75, 2.75 * 20 / 8)
    assert a.measured_compression_ratio == 10240 / 2.75
    assert (a.measured_bits_per_feature_point, a.measured_bits_per_pixel) == (2.75 / 320, None)
    assert a.nominal_bits_per_vector == 9.0
    for name in ("none", "older"):
        assert by_name[name].measured_bits_per_vector is None
        assert by_name[name].pareto_front is None
        assert by_name[name].status == "finished"


def test_retention_is_the_share_of_the_mean_baseline(tmp_path: Path) -> None:
    write(tmp_path, "q", record(0.45))
    write(tmp_path, "b1", record(0.58, kind="baseline"))
    write(tmp_path, "b2", record(0.62, kind="baseline"))
    by_name = rows(tmp_path)
    assert by_name["q"].retention == pytest.approx(0.75)
    assert by_name["b1"].retention is None


def test_the_front_is_found_among_runs_on_the_same_features_and_images(tmp_path: Path) -> None:
    for name, iou, bits in (("a", 0.5, 3.0), ("b", 0.6, 16.0), ("c", 0.49, 4.0)):
        write(tmp_path, name, record(iou, measured=measured(bits)))
    alone = record(0.2, measured=measured(20.0))
    alone["model"]["weights_digest"] = "w2"
    write(tmp_path, "alone", alone)
    write(tmp_path, "stopped", record(0.9, status="failed", measured=measured(1.0)))
    marks = {name: row.pareto_front for name, row in rows(tmp_path).items()}
    assert marks == {"a": True, "b": True, "c": False, "alone": True, "stopped": None}


def test_columns_by_which_to_sort(tmp_path: Path) -> None:
    write(tmp_path, "b", record(0.6, kind="baseline"))
    for name, iou, bits in (("x", 0.4, 3.0), ("y", 0.5, 16.0)):
        write(tmp_path, name, record(iou, measured=measured(bits)))
    assert list(rows(tmp_path, "retention")) == ["y", "x", "b"]
    assert list(rows(tmp_path, "measured-bits-per-vector")) == ["x", "y", "b"]
    assert list(rows(tmp_path, "pareto-front"))[-1] == "b"


def test_every_rate_says_whether_it_is_nominal_or_measured() -> None:
    titles = [column.title for column in COLUMNS]
    rates = [t for t in titles if t.split()[-1] in ("bits", "bytes", "ratio")]
    assert len(rates) == 5
    assert all(title.split()[0] in ("nominal", "measured") for title in rates)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_what_does_not_fit_is_left_out_and_named(tmp_path: Path, width: int) -> None:
    write(tmp_path, "baseline-of-a-long-name", record(0.6, kind="baseline"))
    write(tmp_path, "a", record(0.5123, measured=measured(12.75), quantizer="rvq"))
    lines = shown(list(rows(tmp_path).values()), width)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "12.75" in text
    assert "51.2" in text
    assert ("No room for" in text) == (width < 200)
    assert ("63s" in text) == (width == 200)  # the first to go
    if width == 80:
        heading = [lines[0].split(), lines[1].split()]
        assert heading[0] == ["nominal", "measured", "measured"]
        assert heading[1][3:] == ["bits", "bits", "bytes", "val", "test", "kept", "front"]


def test_columns_without_a_value_are_left_out_of_the_table_not_of_markdown(tmp_path: Path) -> None:
    write(tmp_path, "a", record(0.5))
    found = list(rows(tmp_path).values())
    assert "measured" not in " ".join(shown(found, 80))
    assert "measured bits" in comparison_markdown(found)


def test_json_has_the_new_fields(squeeze: Squeeze, tmp_path: Path) -> None:
    write(tmp_path / "runs", "a", record(0.5, measured=measured(2.75)))
    (row,) = json.loads(squeeze("compare", "runs", "--json").stdout)["runs"]
    assert row["measured_bits_per_vector"] == 2.75
    assert row["pareto_front"] is True
    assert row["retention"] is None
    squeeze("compare", "runs", "--csv", "t.csv")
    assert "measured_bytes_per_image" in (tmp_path / "t.csv").read_text().splitlines()[0]


def test_runs_without_a_head_have_their_own_columns_order_and_front(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    """They come after the others, by MSE; their qualities are not compared with mean IoUs."""
    write(tmp_path / "runs", "segments", record(0.5, measured=measured(4.0)))
    for name, sqnr_db, bits in (("a", 5.0, 3.0), ("b", 10.0, 16.0), ("c", 4.0, 8.0)):
        write(tmp_path / "runs", name, reconstructed(sqnr_db, measured=measured(bits)))
    found = rows(tmp_path / "runs")
    assert list(found) == ["segments", "b", "a", "c"]
    assert {name: row.pareto_front for name, row in found.items()} == {
        "segments": True, "b": True, "a": True, "c": False,
    }  # fmt: skip
    b = found["b"]
    assert (b.test_mse, b.val_mse, b.test_cosine) == pytest.approx((0.1, 1.1, 0.95))
    assert (b.test_sqnr_db, b.test_iou, b.difference_to_baseline) == (10.0, None, None)
    lines = shown([found["a"], b], 200)
    assert lines[1].split()[-6:] == ["MSE", "cosine", "SQNR", "used", "ep.", "time"]
    assert lines[2].split()[-6:-3] == ["0.316", "0.842", "5.00"]
    assert "of normalized test features" in " ".join(" ".join(lines).split())
    assert not any(word in " ".join(lines) for word in ("None", "kept", "acc."))
    (row,) = json.loads(squeeze("compare", "runs/b", "--json").stdout)["runs"]
    assert (row["test_mse"], row["test_iou"]) == (pytest.approx(0.1), None)
    assert next(iter(rows(tmp_path / "runs", "test-cosine"))) == "b"
