"""Figures made after training: predictions, codebook usage, curves; in the run and TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from squeeze_cli.config.record import RunRecord
from squeeze_cli.console import Reporter
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.predictions import picture_column, predict_batch, row_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from squeeze_cli.training.fit import Experiment

SHOWN_IMAGES = 4
# Small, so that drawing takes no notable part of a short training.
DPI = 100


def save_figures(
    run: RunFolder, experiment: Experiment, record: RunRecord, reporter: Reporter
) -> None:
    """Draw `figures/predictions.png`, `codebook.png` and `training.png`; show them in TensorBoard.

    Predictions are of a few validation images, evenly spread; codes are those of the test images.
    Whatever goes wrong is a warning: a finished training does not fail for its pictures.

    Args:
        run: the run's folder.
        experiment: the experiment with the best epoch's weights, tested.
        record: the record with history, quantizer and the best epoch.
        reporter: prints the warning.
    """
    try:
        from squeeze_cli.reports.figures import save_figure

        files = []
        for name, figure in _figures(experiment, record):
            files.append(run.figures_folder / f"{name}.png")
            save_figure(figure, files[-1], DPI)
        if experiment.config.logger.use_tensorboard:
            from squeeze_cli.trackers.tensorboard import add_pictures

            add_pictures(run, files, record.epochs.done)
    except Exception as error:  # noqa: BLE001 - see above
        reason = " ".join(str(error).split())[:200]
        reporter.warn(f"The figures could not be made ({type(error).__name__}: {reason}).")


def _figures(experiment: Experiment, record: RunRecord) -> Iterator[tuple[str, Figure]]:
    from squeeze_cli.reports.figures import codebook_figure, curves_figure

    yield "training", curves_figure(record.history, record.epochs.best)
    if counts := experiment.module.code_counts("test"):
        yield "codebook", codebook_figure([level.cpu().numpy() for level in counts])
    yield "predictions", _predictions(experiment, record)


def _predictions(experiment: Experiment, record: RunRecord) -> Figure:
    from squeeze_cli.reports.pictures import picture_grid

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
