"""The table of rate and distortion: what its cells are made of, and where it is written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import rate_distortion
from tests.records import measured, record, write


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, bits, iou in ((1, 2.5, 0.44), (2, 3.5, 0.46)):
        made = record(iou, seed=seed, measured=measured(bits))
        made["quantizer"]["code_sizes"] = [512]
        made["measured"]["decoder"] = {
            "codebook_bytes": 900,
            "projection_bytes": 100,
            "prior_bytes": 3000 * seed,
        }
        write(tmp_path / "runs", f"vq-{seed}", made)
        write(tmp_path / "runs", f"b-{seed}", record(0.5, kind="baseline", seed=seed))
    single = record(0.48, quantizer="rvq", measured=measured(16.0))
    single["quantizer"]["code_sizes"] = [256] * 4
    write(tmp_path / "runs", "rvq", single)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *pages: Path) -> None:
    image = folder / "images" / "rd.png"
    arguments = [str(folder / "runs"), "--image", str(image), "--pages", *map(str, pages)]
    monkeypatch.setattr(sys, "argv", ["rate_distortion", *arguments])
    rate_distortion.main()
    assert image.stat().st_size > 1000


def test_the_table_takes_the_place_of_what_is_between_the_marks(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = runs / "page.md"
    begin, end = rate_distortion.MARKS
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    run(monkeypatch, runs, page)
    text = page.read_text()
    assert text.startswith(f"before\n{begin}\n| codes |")
    assert text.endswith(f"\n{end}\nafter\n")
    assert "old" not in text
    assert capsys.readouterr().out.strip() in text


def test_means_over_seeds_and_a_single_run_without_a_deviation(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, runs)
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split(" | ")[0]: line.strip("| ").split(" | ")[1:] for line in lines[2:5]}
    assert cells["| `squeeze baseline`"][-2:] == ["50.0 ± 0.0", "100"]
    # Nominal, measured, payload, cross-entropy (not known), bytes, ratio, decoder, IoU, retained.
    assert cells["| vq 512"] == [
        "9", "3.00 ± 0.71", "2.50", "–", "8", "3,511", "6", "45.0 ± 1.4", "90.0",
    ]  # fmt: skip
    assert cells["| rvq 4 × 256"][1] == "16.00"
    assert cells["| rvq 4 × 256"][-2:] == ["48.0", "96.0"]
