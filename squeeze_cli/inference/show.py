"""A picture of what a finished run predicts: `squeeze show`."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze_cli.config.record import RunRecord
from squeeze_cli.console import Reporter
from squeeze_cli.data.samples import Sample
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.sources import open_sources
from squeeze_cli.inference.evaluate import TrainedRun, load_run, reconfigured
from squeeze_cli.inference.pictures import picture_column, row_title
from squeeze_cli.inference.predictions import PredictedMask, predict_batch
from squeeze_cli.reports.comparison import setting
from squeeze_cli.reports.figures import save_figure
from squeeze_cli.reports.pictures import picture_grid
from squeeze_cli.runs import RECORD_NAME, RunFolder, read_runs
from squeeze_cli.training.devices import choose_device
from squeeze_cli.training.fit import load_splits


@dataclass(frozen=True)
class Choice:
    """Which images of a split.

    Attributes:
        how: `spread` evenly over the split, `best` or `worst` by the run's IoU of each image, or
            `random`.
        count: how many; all where the split has fewer.
        seed: of `random`.
    """

    how: str = "spread"
    count: int = 5
    seed: int = 0


def show_run(
    path: Path,
    split: str,
    choice: Choice,
    reporter: Reporter,
    *,
    baseline: Path | None = None,
    out: Path | None = None,
    flags: Mapping[str, Any],
) -> dict[str, Any]:
    """Draw rows of images, ground truth, the baseline's predictions and the run's own.

    Args:
        path: a finished run's folder.
        split: `val` or `test`.
        choice: which of its images.
        reporter: for messages.
        baseline: a run to show beside; None looks for one among the run's neighbours.
        out: the picture's file; None puts it into the run's folder.
        flags: what replaces the run's own configuration, by parameter name.

    Returns:
        `run`, `baseline` (a name or None), `split`, `file`, and for each of `images` `name`, `iou`
        and `baseline_iou`.

    Raises:
        SqueezeError: the run cannot be loaded, or the baseline saw images of another size.
    """
    run = _load(path, flags)
    splits = load_splits(run.config, run.store, reporter)
    samples = {"val": splits.val, "test": splits.test}[split]
    reference = _reference(run, baseline, split, flags, reporter)
    chosen = _choose(run, samples, choice, reporter)
    shown = [run] if reference is None else [reference, run]
    predictions = list(zip(*(_predict(each, chosen, reporter) for each in shown), strict=True))
    columns = [picture_column(*pair) for pair in zip(chosen, predictions, strict=True)]
    titles = ["image", "ground truth", *(row_title(each.record) for each in shown)]
    file = out or run.folder.figures_folder / f"show-{split}-{choice.how}.png"
    save_figure(picture_grid(titles, columns), file)
    return {
        "run": run.folder.name,
        "baseline": reference.folder.name if reference else None,
        "split": split,
        "file": str(file),
        "images": [
            {
                "name": sample.name,
                "iou": masks[-1].iou,
                "baseline_iou": masks[0].iou if reference else None,
            }
            for sample, masks in zip(chosen, predictions, strict=True)
        ],
    }


def _load(path: Path, flags: Mapping[str, Any]) -> TrainedRun:
    config = reconfigured(RunFolder(path), flags)
    return load_run(path, choose_device(config.training.device), config)


def _reference(
    run: TrainedRun,
    baseline: Path | None,
    split: str,
    flags: Mapping[str, Any],
    reporter: Reporter,
) -> TrainedRun | None:
    """The run to show beside this one: the one given, or a neighbour; None where there is none."""
    if baseline is not None:
        reference = _load(baseline, flags)
        wanted, found = run.config.data.image_size, reference.config.data.image_size
        if wanted != found:
            raise SqueezeError(
                f"{baseline} saw images of {found} px, {run.folder.path} of {wanted}: give a "
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
        return _load(neighbour.path, flags)
    except SqueezeError as error:
        reporter.say(f"The baseline's row is left out: {error}")
        return None


def find_baseline(run: RunFolder, record: RunRecord, split: str) -> RunFolder | None:
    """A finished baseline beside `run` with the same backbone weights and images, or None.

    One of the same train/validation split is preferred, and demanded for validation images:
    another seed's baseline was trained on some of them.
    """
    folder = run.path.resolve().parent
    neighbours = [child for child in folder.iterdir() if (child / RECORD_NAME).is_file()]
    found: list[RunFolder] = []
    for other, read in read_runs(neighbours):
        if not isinstance(read, RunRecord) or read.kind != "baseline":
            continue
        if read.status != "finished" or setting(read) != setting(record):
            continue
        if read.data and record.data and read.data.digest == record.data.digest:
            return other
        found.append(other)
    return found[0] if found and split == "test" else None


def _choose(
    run: TrainedRun, samples: Sequence[Sample], choice: Choice, reporter: Reporter
) -> list[Sample]:
    count = min(choice.count, len(samples))
    if choice.how == "spread":  # evenly over the split: nobody picked them
        return [samples[i * len(samples) // count] for i in range(count)]
    if choice.how == "random":
        return random.Random(choice.seed).sample(list(samples), count)
    scored = [
        (mask.iou, number)
        for number, mask in enumerate(_predict(run, samples, reporter))
        if mask.iou is not None
    ]
    scored.sort(reverse=choice.how == "best")
    return [samples[number] for _, number in scored[:count]]


def _predict(
    run: TrainedRun, samples: Sequence[Sample], reporter: Reporter
) -> Iterator[PredictedMask]:
    """The run's prediction for each sample, in order."""
    device = next(run.module.parameters()).device
    sources = open_sources(
        run.config, {"shown": samples}, run.backbone, run.store, device, reporter
    )
    run.module.use_trunk(sources.trunk)
    with reporter.track(f"Predicting with {run.folder.name}", len(samples)) as advance:
        for batch in sources.loader("shown", run.config.training.batch_size):
            yield from predict_batch(run.module, batch, device)
            advance(len(batch[1]), "")
