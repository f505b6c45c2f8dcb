"""`squeeze train`: a quantizer and a segmentation head on frozen features."""

from __future__ import annotations

from collections.abc import Mapping

from squeeze_cli.options import RunOptions, experiment_options

EXAMPLES = (
    "squeeze train --config quickstart",
    "squeeze train --quantizer lfq --model efficientnet-lite0 --data-dir data",
    "squeeze train --config examples.yaml --experiment rvq --epochs 5",
)


@experiment_options("quantizer", "model", "training", "data", "logger", "")
def train(values: Mapping[str, object], options: RunOptions) -> None:
    """Train a quantizer and a segmentation head on the features of a frozen backbone.

    The best epoch is tested on the official test split. Everything is written to runs/NAME/.
    """
    from squeeze_cli.commands.running import run_experiment

    run_experiment("quantized", values, options)
