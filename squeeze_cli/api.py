"""Python interface of squeeze: train, extract, merge, open_run, compare and data sets of codes.

from squeeze_cli.api import compare, extract, open_run, train

record = train("vq", "efficientnet-lite0", data_dir="data", epochs=30, name="vq")
extract("runs/vq", images="holiday", out="codes")      # images to a folder of codes files
run = open_run("runs/vq")                              # needs no backbone
for names, codes in run.open("codes/codes-00000.sqz").batches():
    features = run.to_output(run.features(codes))      # [B, C, h, w]
    masks = run.masks(codes)                           # [B, H, W] uint8
best = compare(["runs"])[0].name

from squeeze_cli.api import CodesDataset               # this name alone imports torch at once

dataset = CodesDataset("codes", run="runs/vq", labels="labels.csv")
features, label = dataset[0]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from squeeze_cli.codec.manifest import Content, ExtractionSummary, Manifest
from squeeze_cli.codec.shards import merge_records
from squeeze_cli.config.classes import ClassTable
from squeeze_cli.config.record import FinishedRecord
from squeeze_cli.config.resolve import resolve_config
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.errors import UsageError
from squeeze_cli.inference.request import Coding, Engine, Extraction, Split
from squeeze_cli.reports.comparison import ComparisonRow, compare_runs
from squeeze_cli.runs import RunFolder, create_run, read_runs

if TYPE_CHECKING:
    from squeeze_cli.inference.dataset import CodesDataset, CodesStream
    from squeeze_cli.inference.trained_run import TrainedRun

__all__ = ["CodesDataset", "CodesStream", "compare", "extract", "merge", "open_run", "train"]


def __getattr__(name: str) -> object:
    """Return a class of data sets at its first use, because its module imports torch."""
    if name not in ("CodesDataset", "CodesStream"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from squeeze_cli.inference import dataset

    return getattr(dataset, name)


def train(
    quantizer: str | None = None, model: str | None = None, *, dataset: str | None = None,
    data_dir: str | Path | None = None, images: str | Path | None = None,
    masks: str | Path | None = None, classes: str | Path | ClassTable | None = None,
    epochs: int | None = None, seed: int | None = None, device: str | None = None,
    target_bits: float | None = None, name: str | None = None, output_dir: str | Path | None = None,
    config: ExperimentConfig | str | Path | None = None, overwrite: bool = False,
    reporter: Reporter | None = None,
) -> FinishedRecord:  # fmt: skip
    """Train a quantizer, and with masks a segmentation head, as `squeeze train` does.

    Each argument up to `output_dir` is the option of that name; None leaves the value of `config`,
    or the default where there is no `config`: an experiment, a YAML file of one, or the name of an
    example. One of kind `baseline` trains a baseline.
    `overwrite` replaces a run of the same name. Without `reporter` only warnings are printed.

    Raises:
        UsageError: A value is invalid, values contradict each other, or the name is taken.
        SqueezeError: Data, weights or the device are missing.
    """
    given = {
        "quantizer.type": quantizer,
        "model.backbone": model,
        "data.dataset": dataset,
        "data.data_dir": data_dir,
        "data.images": images,
        "data.masks": masks,
        "data.classes": classes,
        "training.epochs": epochs,
        "training.seed": seed,
        "training.device": device,
        "quantizer.target_bits": target_bits,
        "name": name,
        "output_dir": output_dir,
    }
    values = {key: value for key, value in given.items() if value is not None}
    resolved = resolve_config(None, values, str(config) if isinstance(config, Path) else config)
    if resolved.training.devices != 1 or resolved.training.num_nodes != 1:
        raise UsageError("Train on several devices by the command: squeeze train --devices N.")
    run = create_run(resolved, overwrite)
    reporter = reporter or Reporter(quiet=True)
    with run.training():
        from squeeze_cli.training.fit import approach_target, fit_experiment

        record = fit_experiment(resolved, run, reporter)
    return approach_target(resolved, run, record, reporter)


def open_run(
    path: str | Path, device: str | None = "auto", levels: int | None = None
) -> TrainedRun:
    """Open a finished run, to encode features, open codes files and decode codes.

    `device` is `auto`, `cpu`, `cuda`, `mps`, or None for the device of the training. `levels` is the
    number of levels of rvq to use, or None for all. Raises SqueezeError where the folder holds no
    finished run, or the device is not available, and UsageError where the run has fewer levels.
    """
    return _open(path, {"training.device": device}, levels)


def _open(path: str | Path, values: Mapping[str, object], levels: int | None) -> TrainedRun:
    given = {key: value for key, value in values.items() if value is not None}
    RunFolder(Path(path)).open_finished(given, levels)  # mistakes show before torch is imported
    from squeeze_cli.inference.trained_run import TrainedRun

    return TrainedRun(path, given, levels)


def extract(
    run: str | Path, *, images: str | Path | None = None, features: str | Path | None = None,
    feature_names: str | Path | None = None,
    split: Split | None = None, content: Content = "codes", coding: Coding | None = None,
    out: str | Path | None = None, overwrite: bool = False, data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None, use_cache: bool | None = None,
    num_workers: int = 0, device: str | None = "auto", levels: int | None = None,
    images_per_shard: int | None = None, shard_index: int | None = None,
    num_shards: int | None = None, engine: Engine = "local", address: str | None = None,
    gpus_per_worker: float | None = None, max_bad: str | float | None = None,
    reporter: Reporter | None = None,
) -> ExtractionSummary:  # fmt: skip
    """Write codes or features of images to files, as `squeeze extract-embeddings` does.

    Shards that exist already are not written again.

    Args:
        run: Folder of a finished run.
        images: Folder, list or archives of images, or an address of these, in place of a `split` of
            the run's data (by default `test`).
        features: File or folder of features of another network, in place of images.
        feature_names: File with the names of the rows of `features`, one per line.
        content: `codes`, `quantized` (features decoded from codes) or `features` (the input of the
            quantizer).
        coding: `prior` or `packed`; None uses the prior where the run has one.
        out: Folder to write to, by default one in the run's folder; `overwrite` replaces its files.
        data_dir, cache_dir, use_cache, device: As the options of these names; None uses the values
            of the run's training.
        num_workers: Number of worker processes; 0 computes in threads of this process. Workers import
            the calling script, so with workers call this function below `if __name__ == "__main__":`.
        levels: Number of levels of rvq to use; None uses all.
        images_per_shard, shard_index, num_shards, engine, address, gpus_per_worker, max_bad: As the
            options of these names.

    Raises:
        SqueezeError: The run has no codes, or a file is missing or damaged.
        UsageError: Arguments contradict each other, or `out` holds other files.
    """
    extraction = Extraction(
        split=split, images=images, features=features, feature_names=feature_names, content=content,
        coding=coding, out=out, overwrite=overwrite, levels=levels, num_workers=num_workers,
        images_per_shard=images_per_shard, shard_index=shard_index, num_shards=num_shards,
        engine=engine, address=address, gpus_per_worker=gpus_per_worker, max_bad=max_bad,
    )  # fmt: skip
    values = {
        "data.data_dir": data_dir,
        "data.cache_dir": cache_dir,
        "data.use_cache": use_cache,
        "training.device": device,
    }
    opened = _open(run, values, levels)
    from squeeze_cli.inference.extract import extract_embeddings

    return extract_embeddings(opened, extraction, reporter or Reporter(quiet=True))


def merge(folder: str | Path) -> Manifest:
    """Check that an extraction in parts has all its shards, write the manifest and return it.

    Raises SqueezeError where shards are missing or damaged.
    """
    return merge_records(Path(folder))


def compare(
    folders: str | Path | Iterable[str | Path], sort: str | None = None
) -> list[ComparisonRow]:
    """Return a row for each run at or below the folder or `folders`, in the order of `squeeze compare`.

    `sort` is the column to sort by, `test_iou` by default. Raises SqueezeError where a folder does
    not exist, and UsageError for an unknown column.
    """
    given = [folders] if isinstance(folders, str | Path) else folders
    return compare_runs(read_runs(map(Path, given)), sort)
