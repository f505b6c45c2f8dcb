"""Start-up time of `squeeze --help`, `--version`, a usage error and `compare`, and of a small Typer app.

    python -m benchmarks.startup --repeats 9

Every command is a fresh process. The commands alternate, so that other jobs on the machine affect all of
them, and the least time of each counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import figures_table, show
from benchmarks.processes import Cost, measure
from squeeze_cli.config.record import Epochs, Metrics, RunRecord, Seconds
from squeeze_cli.runs import RunFolder

REFERENCE = "one-command Typer app --help"
# What the smallest app with a typed option looks like.
SMALLEST_APP = '''
import typer

app = typer.Typer()


@app.command()
def hello(name: str = typer.Option("you", help="Who is greeted.")) -> None:
    """Greet somebody."""
    print(f"Hello {name}")


app()
'''


def make_commands(place: Path) -> dict[str, tuple[list[str], int]]:
    """Return command lines by name, each with its exit code."""
    script = place / "smallest.py"
    script.write_text(SMALLEST_APP, encoding="utf-8")
    run = RunFolder(place / "runs" / "some")
    failed = RunRecord(
        name="some", kind="quantized", status="failed", error="an example", seed=1,
        epochs=Epochs(planned=1, done=0), metrics=Metrics(),
        seconds=Seconds(features=0.0, fit=0.0, total=0.0),
    )  # fmt: skip
    run.write_record(failed)
    squeeze = str(Path(sys.executable).parent / "squeeze")
    return {
        REFERENCE: ([sys.executable, str(script), "--help"], 0),
        "squeeze --help": ([squeeze, "--help"], 0),
        "squeeze train --help": ([squeeze, "train", "--help"], 0),
        "squeeze --version": ([squeeze, "--version"], 0),
        "a usage error": ([squeeze, "train", "--quantizer", "vqq"], 2),
        "squeeze compare": ([squeeze, "compare", str(place / "runs")], 0),
    }


def time_in_turn(commands: dict[str, tuple[list[str], int]], repeats: int) -> dict[str, list[Cost]]:
    """Return `repeats` costs of each command, after one round that only warms the file cache."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(repeats + 1):
        for name, (command, code) in commands.items():
            costs[name].append(measure(command, expected_code=code))
    return {name: each[1:] for name, each in costs.items()}


def main() -> None:
    """Time, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="squeeze-benchmark-") as place:
        costs = time_in_turn(make_commands(Path(place)), options.repeats)
    least = {
        name: {"wall_s": min(c.wall_s for c in each), "cpu_s": min(c.cpu_s for c in each)}
        for name, each in costs.items()
    }
    table = figures_table("Start-up, least of each", ("", "wall ms", "ratio", "CPU ms", "ratio"))
    for name, seconds in least.items():
        cells = []
        for kind in ("wall_s", "cpu_s"):
            cells.append(f"{1000 * seconds[kind]:.0f}")
            cells.append(f"{seconds[kind] / least[REFERENCE][kind]:.2f}")
        table.add_row(name, *cells)
    show(table, {"repeats": options.repeats, "least": least}, options.json)


if __name__ == "__main__":
    main()
