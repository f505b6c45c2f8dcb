"""Description of the machine, and output of figures, for all benchmarks."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table


def describe_machine() -> str:
    """Return processor, usable cores, memory and the versions that affect the speed, in a line."""
    import psutil
    import torch

    from squeeze_cli.data.images import available_cores

    memory_gib = psutil.virtual_memory().total / 2**30
    gpu = f"{torch.cuda.get_device_name(0)}, " if torch.cuda.is_available() else ""
    return (
        f"{gpu}{_processor()}, {available_cores()} cores, {memory_gib:.0f} GiB; "
        f"{platform.system()}, Python {platform.python_version()}, torch {version('torch')}"
    )


def show(table: RenderableType, figures: dict[str, Any], file: Path | None) -> None:
    """Print the table and the machine; write the figures as JSON if a file is given."""
    from squeeze_cli.files import write_atomically

    console = Console(highlight=False)
    machine = describe_machine()
    console.print(table)
    console.print(machine, soft_wrap=True)
    if file is not None:
        text = json.dumps({"machine": machine, **figures}, indent=2)
        write_atomically(file, text + "\n")


def figures_table(title: str | None, headings: Sequence[str]) -> Table:
    """Return an empty table: names in the first column, and figures to the right in the others."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def weights_at_hand(backbone: str) -> str:
    """Return `--weights`: those that come in a package, or else random ones, which are as fast."""
    return "default" if backbone == "efficientnet-lite0" else "none"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or os.uname().machine
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()
