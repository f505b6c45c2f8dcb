"""`squeeze compare`: a table of runs, read from their records only."""

from pathlib import Path
from typing import Annotated

import typer

from squeeze_cli.console import print_json
from squeeze_cli.errors import UsageError
from squeeze_cli.files import FIGURE_MARK, require_own, write_atomically
from squeeze_cli.options import OutputOptions, figure_option, option, with_options
from squeeze_cli.reports.comparison import (
    CSV_MARK,
    MARKDOWN_MARK,
    compare_runs,
    comparison_csv,
    comparison_json,
    comparison_markdown,
    comparison_table,
)
from squeeze_cli.runs import read_runs

EXAMPLES = (
    "squeeze compare runs/",
    "squeeze compare runs/ --sort nominal-bits-per-vector",
    "squeeze compare runs/ --json --csv runs.csv --markdown runs.md",
    "squeeze compare runs/ --plot rate-distortion.png",
)


@with_options()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or runs.")],
    sort: Annotated[str | None, option("Order by this column. [default: test-iou]", "COL")] = None,
    csv: Annotated[Path | None, option("Write a CSV file too.", "FILE")] = None,
    markdown: Annotated[Path | None, option("Write Markdown too.", "FILE")] = None,
    plot: Annotated[
        Path | None, figure_option("Draw measured bits against mean IoU: .png or .svg.")
    ] = None,
    *,
    output: OutputOptions,
) -> None:
    """Compare all runs below the folders given: rate, mean IoU, difference to the baseline."""
    reporter = output.reporter()
    found = read_runs(runs)
    if csv is not None and markdown is not None and csv.resolve() == markdown.resolve():
        raise UsageError("--csv and --markdown name one file: name two.")
    for path, mark in ((csv, CSV_MARK), (markdown, MARKDOWN_MARK), (plot, FIGURE_MARK)):
        if path is not None and any(run.owns(path) for run, _ in found):
            raise UsageError(f"{path} is a file of a run: name another file.")
        if path is not None:
            require_own(path, mark)
    rows = compare_runs(found, sort)
    for path, render in ((csv, comparison_csv), (markdown, comparison_markdown)):
        if path is not None:
            write_atomically(path, render(rows))
            reporter.say(f"Wrote {path}")
    if output.json:
        print_json(comparison_json(rows))
    elif rows:
        reporter.show(comparison_table(rows, reporter.out.width))
    else:
        reporter.say("No runs there yet: `squeeze train --help` shows how to make one.")
    if plot is not None:
        from squeeze_cli.reports.figures import save_figure
        from squeeze_cli.reports.rate_distortion import rate_distortion, rate_distortion_figure

        save_figure(rate_distortion_figure(rate_distortion(found)), plot)
        reporter.say(f"Wrote {plot}")
