"""The table of the curve: means over seeds, in the page and in short in the README."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import curve
from tests.records import measured, record, write


def test_tables_are_of_all_seeds_and_fit_their_pages(tmp_path: Path) -> None:
    for seed, bits, iou in ((1, 2.5, 0.44), (2, 3.5, 0.46)):
        for name in curve.COMMANDS:
            if name in (curve.BASELINE, curve.TEACHER):
                made = record(0.5, kind="baseline", seed=seed)
            else:
                made = record(iou, seed=seed, measured=measured(bits))
            write(tmp_path, f"{name}-{seed}", made)
    options = argparse.Namespace(
        output_dir=tmp_path, seeds=[1, 2], model="vit", epochs=3, batch_size=4
    )
    rows = curve.read_rows(options)
    lines = curve.summary(rows, options).splitlines()
    assert "| `baseline` | – | – | 50.0 | 100.0 |" in lines
    assert "| `train` | 3.00 | 8 | 45.0 | 90.0 |" in lines
    assert max(map(len, lines)) <= 100
    whole = curve.markdown(rows, options)
    assert "| `squeeze train` | 3.00 ± 0.71 |" in whole
    assert "45.0 ± 1.4 | 90.0 ± 2.8" in whole
