"""The README's pictures of a terminal: the closing table of a training, and `compare`.

    python -m benchmarks.screenshots --output-dir runs

Trains the quickstart experiments and the other quantizers on drawn images, unless they have a finished
run in the output folder. Each picture shows the actual output of a command on a terminal.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from benchmarks.processes import ROOT
from squeeze_cli.runs import RunFolder

IMAGES = ROOT / "docs" / "images"
QUANTIZERS = ("fsq", "lfq", "rvq")


def main() -> None:
    """Train missing runs, then write both pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output-dir", type=Path, default=Path("runs"))
    parser.add_argument("--columns", type=int, default=110, help="width of the terminal")
    options = parser.parse_args()
    folder = options.output_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    trainings = {"quickstart-baseline": "baseline --config quickstart-baseline"}
    trainings |= {
        name: f"train --config quickstart --quantizer {name} --name {name}" for name in QUANTIZERS
    }
    for name, command in trainings.items():
        if not _finished(folder / name):
            _run(f"{command} --output-dir {shlex.quote(str(folder))} --overwrite", folder, 100)
    shown = "train --config quickstart"
    # The run's folder must read runs/quickstart: the command runs beside the folder of runs.
    link = "" if folder.name == "runs" else f" --output-dir {folder.name}"
    text = _run(f"{shown}{link} --overwrite --no-progress", folder.parent, options.columns)
    _draw(IMAGES / "train.svg", f"squeeze {shown}", text, options.columns)
    text = _run(f"compare {folder.name}", folder.parent, options.columns)
    _draw(IMAGES / "compare.svg", "squeeze compare runs/", text, options.columns)


def _finished(run: Path) -> bool:
    folder = RunFolder(run)
    return folder.record_file.exists() and folder.read_record().status == "finished"


def _run(command: str, folder: Path, columns: int) -> str:
    """Return the output of `squeeze COMMAND` on a terminal of this width."""
    terminal, end = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    squeeze = str(Path(sys.executable).parent / "squeeze")
    process = subprocess.Popen(
        [squeeze, *shlex.split(command)], cwd=folder, env=environment, stdout=end, stderr=end
    )
    os.close(end)
    printed = b""
    try:
        while part := os.read(terminal, 65536):
            printed += part
    except OSError:  # Linux reports the end of a terminal as an error
        pass
    os.close(terminal)
    if process.wait() != 0:
        raise SystemExit(printed.decode())
    return printed.decode().replace("\r\n", "\n")


def _draw(path: Path, command: str, printed: str, columns: int) -> None:
    """Write the command and its output as a picture."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=columns, file=nowhere, force_terminal=True)
        console.print(Text(f"$ {command}", style="bold"))
        console.print(Text.from_ansi(printed.rstrip()))
        svg = console.export_svg(title="squeeze")
    # The template asks a server for its font; any monospaced font does.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S), encoding="utf-8")
    print(f"Wrote {path.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
