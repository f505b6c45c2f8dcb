"""Figures made after training: predictions, codebook usage, curves; in the run and TensorBoard.

matplotlib is imported where something is drawn, so that even a broken one is only a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeeze_cli.console import Reporter
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.predictions import predict_batch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from squeeze_cli.training.fit import Experiment

SHOWN_IMAGES = 4
# Small, so that drawing takes no notable part of a short training.
FIGURE_DPI = 100


def save_figures(
    run: RunFolder, experiment: Experiment, record: Mapping[str, Any], reporter: Reporter
) -> None:
    """Draw `figures/predictions.png`, `codebook.png` and `training.png`; show them in TensorBoard.

    Predictions are of a few validation images, evenly spread; codes are those of the test images.
    Whatever goes wrong is a warning: a finished training does not fail for its pictures.

    Args:
        run: the run's folder.
        experiment: with the best epoch's weights, tested.
        record: with history, quantizer and the best epoch.
        reporter: for the warning.
    """
    try:
        files = [_save(run, name, figure) for name, figure in _figures(experiment, record).items()]
        if experiment.config.logger.use_tensorboard:
            from squeeze_cli.trackers.tensorboard import add_pictures

            add_pictures(run, files, record["epochs"]["done"])
    except Exception as error:  # noqa: BLE001 - see above
        reason = " ".join(str(error).split())[:200]
        reporter.warn(f"The figures could not be made ({type(error).__name__}: {reason}).")


def _figures(experiment: Experiment, record: Mapping[str, Any]) -> dict[str, Figure]:
    from squeeze_cli.reports.training_figures import codebook_figure, curves_figure

    figures = {
        "predictions": _predictions(experiment, record),
        "training": curves_figure(record["history"], record["epochs"]["best"]),
    }
    counts = experiment.module.code_counts("test")
    if counts:
        figures["codebook"] = codebook_figure([level.cpu().numpy() for level in counts])
    return figures


def _predictions(experiment: Experiment, record: Mapping[str, Any]) -> Figure:
    from squeeze_cli.reports.pictures import picture_grid
    from squeeze_cli.training.pictures import picture_column, row_title

    samples = experiment.splits.val
    count = min(SHOWN_IMAGES, len(samples))
    positions = [i * len(samples) // count for i in range(count)]
    module = experiment.module.eval().to(experiment.device)
    batch = experiment.sources.batch("val", positions)
    columns = [
        picture_column(samples[position], [mask])
        for position, mask in zip(
            positions, predict_batch(module, batch, experiment.device), strict=True
        )
    ]
    return picture_grid(["image", "ground truth", row_title(record)], columns)


def _save(run: RunFolder, name: str, figure: Figure) -> Path:
    from squeeze_cli.reports.figures import save_figure

    path = run.figures_folder / f"{name}.png"
    save_figure(figure, path, FIGURE_DPI)
    return path
