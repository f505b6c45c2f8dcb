"""`squeeze show`: a figure of a trained run's predictions."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from squeeze_cli.config.record import RunRecord
from squeeze_cli.console import Reporter
from squeeze_cli.data.samples import FileSample, Sample
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.features.datamodule import FeatureBatches
from squeeze_cli.files import FIGURE_MARK, require_own
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.reports.comparison import is_reference, setting
from squeeze_cli.reports.figures import PredictedMask, predictions_figure, run_title, save_figure
from squeeze_cli.runs import RECORD_NAME, RunFolder, read_runs
from squeeze_cli.training.figures import predict_batch, read_pictures
from squeeze_cli.training.modules import SegmentationModule

How = Literal["spread", "best", "worst", "random"]


def show_run(
    run: TrainedRun, split: Literal["val", "test"], reporter: Reporter, *, how: How = "spread",
    count: int = 5, seed: int = 0, baseline: Path | None = None, out: Path | None = None,
) -> dict[str, object]:  # fmt: skip
    """Draw images, ground truth, and the predictions of a baseline and of the run.

    Args:
        how: Choice of images: `spread` evenly over the split, `best` or `worst` by the IoU of
            each image, or `random`, by `seed`.
        count: Number of images, at most those of the split.
        baseline: Folder of a run for comparison; by default a baseline beside the run's folder.
        out: File of the picture; by default one in the run's folder.

    Returns:
        The content of `squeeze show --json`.

    Raises:
        SqueezeError: The run predicts no masks, or the baseline cannot be loaded, has other classes or
            images of another size.
    """
    run.require_head()
    splits = run.splits(reporter)
    samples = getattr(splits, split)
    if out is not None and any(
        isinstance(each, FileSample) and each.is_in(out)
        for part in splits.named().values()
        for each in part
    ):
        raise UsageError(f"{out} is an image or a mask of the run: name another file by --out.")
    if out is not None:
        require_own(out, FIGURE_MARK)
    reference = _reference(run, baseline, split, reporter)
    chosen = _choose(run, samples, how, min(count, len(samples)), seed, reporter)
    shown = [run] if reference is None else [reference, run]
    data = [each.data({"shown": chosen}, reporter) for each in shown]
    pictures = read_pictures(data[-1], "shown", range(len(data[-1].splits["shown"])))
    predicted = [_predict(*pair, reporter) for pair in zip(shown, data, strict=True)]
    predictions = list(zip(*predicted, strict=True))
    file = out or run.folder.figures_folder / f"show-{split}-{how}.png"
    titles = [run_title(each.record) for each in shown]
    save_figure(predictions_figure(pictures, predictions, titles, run.classes), file)
    images = [
        {"name": name, "iou": m[-1].iou, "baseline_iou": m[0].iou if reference else None}
        for name, m in zip(pictures, predictions, strict=True)
    ]
    beside = reference.folder.name if reference else None
    return {
        "run": run.folder.name, "baseline": beside, "split": split, "file": str(file),
        "images": images,
    }  # fmt: skip


def _reference(
    run: TrainedRun, baseline: Path | None, split: str, reporter: Reporter
) -> TrainedRun | None:
    """Return the run for comparison: the given one, or a baseline beside the run, or None."""
    if baseline is not None:
        reference = TrainedRun(baseline, run.values)
        reference.require_head()
        if reference.classes.names != run.classes.names:
            raise SqueezeError(
                f"{baseline} has the classes {', '.join(reference.classes.names)}, "
                f"{run.folder.path} the classes {', '.join(run.classes.names)}: give a --baseline of "
                "the same classes."
            )
        own_size, other_size = (
            f"{each.config.data.image_size} px ({each.config.data.fit})"
            for each in (run, reference)
        )
        if own_size != other_size:
            raise SqueezeError(
                f"{baseline} has images of {other_size}, {run.folder.path} of {own_size}: give a "
                "--baseline of the same size."
            )
        return reference
    if run.record.kind == "baseline":
        return None
    neighbour = find_baseline(run.folder, run.record, split)
    if neighbour is None:
        reporter.say(
            "No baseline on the same features and images beside this run: its row is left out; "
            "--baseline RUN names one."
        )
        return None
    try:
        return TrainedRun(neighbour.path, run.values)
    except SqueezeError as error:
        reporter.say(f"The baseline's row is left out: {error}")
        return None


def find_baseline(run: RunFolder, record: RunRecord, split: str) -> RunFolder | None:
    """Find a finished baseline beside `run` with the same backbone weights and test images.

    A baseline with the same train/validation split is preferred, and required for validation images,
    because baselines of other seeds were trained on some of them.
    """
    folder = run.path.resolve().parent
    neighbours = [child for child in folder.iterdir() if (child / RECORD_NAME).is_file()]
    found: list[RunFolder] = []
    for other, read in read_runs(neighbours):
        if not isinstance(read, RunRecord) or not is_reference(read):
            continue
        if setting(read) != setting(record):
            continue
        if read.data and record.data and read.data.digest == record.data.digest:
            return other
        found.append(other)
    return found[0] if found and split == "test" else None


def _choose(
    run: TrainedRun, samples: Sequence[Sample], how: How, count: int, seed: int, reporter: Reporter
) -> list[Sample]:
    if how == "spread":
        return [samples[i * len(samples) // count] for i in range(count)]
    if how == "random":
        return random.Random(seed).sample(list(samples), count)
    data = run.data({"shown": samples}, reporter)
    ious = [mask.iou for mask in _predict(run, data, reporter)]
    scored = sorted((iou, number) for number, iou in enumerate(ious) if iou is not None)
    ordered = reversed(scored) if how == "best" else scored
    return [data.splits["shown"][number] for _, number in ordered][:count]


def _predict(run: TrainedRun, data: FeatureBatches, reporter: Reporter) -> Iterator[PredictedMask]:
    """Yield the run's prediction for each image of the split `shown`, in order."""
    assert isinstance(run.module, SegmentationModule)
    total = len(data.splits["shown"])
    with reporter.track(f"Predicting with {run.folder.name}", total) as advance:
        for batch in data.batches("shown"):
            yield from predict_batch(run.module, batch)
            advance(len(batch[1]), "")
