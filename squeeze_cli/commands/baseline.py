"""`squeeze baseline`: the same training without a quantizer."""

from __future__ import annotations

from typing import Any

from squeeze_cli.commands.running import run_command
from squeeze_cli.options import BASELINE_FLAGS, takes

EXAMPLES = (
    "squeeze baseline --model efficientnet-lite0 --dataset synthetic --epochs 5",
    "squeeze baseline --model efficientnet-lite0 --data-dir data --epochs 30",
)


@takes(BASELINE_FLAGS)
def baseline(**flags: Any) -> None:
    """Train a segmentation head on unquantized features: what quantizers are measured against."""
    run_command("baseline", flags)
