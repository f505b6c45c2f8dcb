"""`squeeze baseline`: the same training without a quantizer."""

from __future__ import annotations

from collections.abc import Mapping

from squeeze_cli.options import RunOptions, experiment_options

EXAMPLES = (
    "squeeze baseline --config quickstart-baseline",
    "squeeze baseline --model efficientnet-lite0 --data-dir data --epochs 30",
)


@experiment_options("model", "training", "data", "logger", "")
def baseline(values: Mapping[str, object], options: RunOptions) -> None:
    """Train a segmentation head on unquantized features: what quantizers are measured against."""
    from squeeze_cli.commands.running import run_experiment

    run_experiment("baseline", values, options)
