"""Figures made after training: predictions, codebook usage, curves; in the run and TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.config.record import RunRecord
from squeeze_cli.console import Reporter
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.experiment import Experiment
from squeeze_cli.training.predictions import draw_predictions, predict_batch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_IMAGES = 4
# Small, so that drawing takes no notable part of a short training.
DPI = 100


def save_figures(
    run: RunFolder,
    experiment: Experiment,
    record: RunRecord,
    code_counts: Sequence[NDArray[np.int64]],
    reporter: Reporter,
) -> None:
    """Draw `figures/predictions.png`, `codebook.png` and `training.png`; show them in TensorBoard.

    Predictions are of a few validation images, evenly spread; codes are those of the test images.
    Whatever goes wrong is a warning: a finished training does not fail for its pictures.

    Args:
        run: the run's folder.
        experiment: the experiment with the best epoch's weights, tested.
        record: the record with history, quantizer and the best epoch.
        code_counts: uses of each value of each code in the test images; empty without codes.
        reporter: prints the warning.
    """
    try:
        from squeeze_cli.reports.figures import save_figure

        files = []
        for name, figure in _figures(experiment, record, code_counts):
            files.append(run.figures_folder / f"{name}.png")
            save_figure(figure, files[-1], DPI)
        if experiment.config.logger.use_tensorboard:
            from squeeze_cli.trackers.loggers import add_pictures

            add_pictures(run, files, record.epochs.done)
    except Exception as error:  # noqa: BLE001 - see above
        reason = " ".join(str(error).split())[:200]
        reporter.warn(f"The figures could not be made ({type(error).__name__}: {reason}).")


def _figures(
    experiment: Experiment, record: RunRecord, code_counts: Sequence[NDArray[np.int64]]
) -> Iterator[tuple[str, Figure]]:
    from squeeze_cli.reports.figures import codebook_figure, curves_figure

    yield "training", curves_figure(record.history, record.epochs.best)
    if code_counts:
        yield "codebook", codebook_figure(code_counts)
    yield "predictions", _predictions(experiment, record)


def _predictions(experiment: Experiment, record: RunRecord) -> Figure:
    samples = experiment.splits.val
    count = min(SHOWN_IMAGES, len(samples))
    positions = [i * len(samples) // count for i in range(count)]
    masks = predict_batch(experiment.module, experiment.data.batch("val", positions))
    return draw_predictions([samples[i] for i in positions], [[m] for m in masks], [record])
