"""`squeeze train`: a quantizer and a segmentation head on frozen features."""

from __future__ import annotations

from typing import Any

from squeeze_cli.commands.running import run_command
from squeeze_cli.options import TRAIN_FLAGS, takes

EXAMPLES = (
    "squeeze train --model efficientnet-lite0 --dataset synthetic --epochs 5",
    "squeeze train --quantizer lfq --model efficientnet-lite0 --data-dir data",
    "squeeze train --config examples.yaml --experiment quickstart",
)


@takes(TRAIN_FLAGS)
def train(**flags: Any) -> None:
    """Train a quantizer and a segmentation head on the features of a frozen backbone.

    The best epoch is tested on the official test split. Everything lands in runs/NAME/.
    """
    run_command("quantized", flags)
