"""Rate-distortion figure and tables of the documentation, from records of finished runs.

    python -m benchmarks.rate_distortion runs/results

The rate is measured: the size of the whole file of the test split's codes. The figure is that of
`squeeze compare --plot`. The table is written between the rate-distortion marks of a page. The runs are
trained by `python -m benchmarks.results`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.results import ROOT, between_marks, fill, spread
from squeeze_cli.config.record import MeasuredSplit
from squeeze_cli.files import write_atomically
from squeeze_cli.reports.figures import save_figure
from squeeze_cli.reports.rate_distortion import (
    Configuration,
    Panel,
    rate_distortion,
    rate_distortion_figure,
)
from squeeze_cli.reports.tables import MISSING, fixed, number, percent
from squeeze_cli.runs import read_runs

MARKS = ("<!-- rate-distortion:begin -->", "<!-- rate-distortion:end -->")
PAGES = (ROOT / "docs" / "results.md",)
IMAGE = ROOT / "docs" / "images" / "rate-distortion.png"
HEADINGS = (
    "codes", "nominal bits per vector", "measured bits per vector", "payload bits per vector",
    "prior's cross-entropy", "measured bytes per image", "measured ratio to float32",
    "decoder, kB once", "test mean IoU %", "% of baseline",
)  # fmt: skip
WORDS = (
    "Measured: the whole file of the test split's codes, with its names, lengths, checksums and "
    "metadata; payload: the coded images alone. The decoder's codebooks, projection and prior, which "
    "are needed once, are not in it and have their own column, in units of 1000 bytes. Cross-entropy: "
    "bits per vector that the prior would need with an ideal coder. Nominal bits are computed from "
    "the codes' sizes."
)


def table(panel: Panel) -> list[str]:
    """Return lines of Markdown: a row for each configuration, best first, below the baseline's."""
    rows: list[Sequence[str]] = [HEADINGS]
    if panel.baseline:
        unknown = [MISSING] * (len(HEADINGS) - 3)
        rows.append(("`squeeze baseline`", *unknown, over_seeds(panel.baseline, 100), "100"))
    ordered = sorted(panel.configurations, key=lambda configuration: -configuration.point[1])
    rows += [list(row(each, panel.baseline)) for each in ordered]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return [lines[0], "|---" + "|---:" * (len(HEADINGS) - 1) + "|", *lines[1:]]


def row(configuration: Configuration, baseline: Sequence[float]) -> Iterator[str]:
    """Return the cells of one configuration: means over its seeds."""
    records = configuration.records
    tests = [record.measured.test for record in records if record.measured]
    yield configuration.label
    yield number(records[0].quantizer.nominal_bits_per_vector)
    yield over_seeds(configuration.bits, digits=2)
    yield mean_of(tests, "payload_bits_per_vector", 2)
    yield mean_of(tests, "prior_cross_entropy_bits", 2)
    yield mean_of(tests, "bytes_per_image")
    yield mean_of(tests, "compression_ratio")
    yield fixed(statistics.mean(r.measured.decoder.total for r in records if r.measured) / 1000)
    yield over_seeds(configuration.qualities, 100)
    share = configuration.point[1] / statistics.mean(baseline) if baseline else None
    yield percent(share)


def over_seeds(values: Sequence[float], scale: float = 1.0, digits: int = 1) -> str:
    """Return mean ± standard deviation, or a single value."""
    if len(values) > 1:
        return spread(values, scale, digits)
    return fixed(scale * values[0], digits)


def mean_of(tests: Sequence[MeasuredSplit], name: str, digits: int = 0) -> str:
    """Return the mean of a measured figure over the seeds, or `MISSING` if a seed lacks it."""
    values = [getattr(test, name) for test in tests]
    known = [value for value in values if value is not None]
    return fixed(statistics.mean(known), digits) if len(known) == len(values) else MISSING


def seeds_of(panel: Panel) -> str:
    """Return the title of a panel, and the seeds of its runs."""
    seeds = sorted({record.seed for each in panel.configurations for record in each.records})
    named = ", ".join(map(str, seeds))
    if len(seeds) > 1:
        return f"{panel.title}; seeds {named}: mean ± standard deviation over the seeds."
    return f"{panel.title}; seed {named}."


def markdown(panels: Sequence[Panel]) -> str:
    """Return a table for each panel, and a description of its figures."""
    parts = ["\n".join([*table(panel), "", fill(f"{seeds_of(panel)} {WORDS}")]) for panel in panels]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Read the records, draw, write the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, or runs")
    parser.add_argument("--image", type=Path, default=IMAGE)
    parser.add_argument("--pages", type=Path, nargs="*", default=PAGES)
    options = parser.parse_args()
    panels = rate_distortion(read_runs(options.runs))
    save_figure(rate_distortion_figure(panels), options.image)
    print(f"Wrote {options.image}", file=sys.stderr)
    content = markdown(panels)
    print(content)
    for page in options.pages:
        text = page.read_text(encoding="utf-8")
        write_atomically(page, between_marks(text, content, MARKS))
        print(f"Wrote {page}", file=sys.stderr)


if __name__ == "__main__":
    main()
