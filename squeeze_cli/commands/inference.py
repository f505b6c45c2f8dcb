"""Commands on a finished run and on codes: evaluate, show, extract-embeddings, merge and decode."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from squeeze_cli.codec.manifest import Content
from squeeze_cli.config.schema import DeviceName
from squeeze_cli.console import print_json, print_text
from squeeze_cli.errors import UsageError
from squeeze_cli.inference.request import Coding, Engine, Extraction, Split
from squeeze_cli.options import (
    OutputOptions,
    field_option,
    figure_option,
    option,
    switch,
    with_options,
)

EXAMPLES = (
    "squeeze evaluate runs/vq-efficientnet-lite0",
    "squeeze evaluate runs/vq-efficientnet-lite0 --data-dir other/data --split val --json",
    "squeeze evaluate runs/vq-efficientnet-lite0 --neighbours --probe labels.csv",
    "squeeze evaluate runs/rvq-vit --levels 2",
    "squeeze show runs/vq-efficientnet-lite0",
    "squeeze show runs/vq-efficientnet-lite0 --worst --count 8",
    "squeeze show runs/rvq-vit --baseline runs/baseline-vit --out rvq.png",
    "squeeze extract-embeddings runs/vq-efficientnet-lite0",
    "squeeze extract-embeddings runs/vq-efficientnet-lite0 --images holiday/",
    "squeeze extract-embeddings runs/vq-features --features features.npy --out codes",
    "squeeze extract-embeddings runs/vq-vit --images photos --out codes --shard-index 0 --num-shards 8",
    "squeeze merge codes",
    "squeeze merge codes --json",
    "squeeze decode runs/vq-vit/codes/test.sqz --to masks --out masks",
    "squeeze decode codes.sqz --run runs/vq-vit --to features --out features",
    "squeeze decode codes.sqz --run runs/vq-vit --to features --as npy --dtype float16 --out maps",
)
Run = Annotated[Path, typer.Argument(help="Folder of a finished run.")]
Measured = Annotated[Literal["test", "val"], option("Split of the run's data.")]
Levels = Annotated[
    int | None, option("Use the first N levels only (rvq). [default: all]", "N", min=1)
]
Overwrite = Annotated[bool, switch("--overwrite", "Replace what is in the folder.")]
# Values of options that replace values of the run's configuration, by `section.field`.
Values = Mapping[str, object]
_DATA = tuple(f"data.{name}" for name in ("data_dir", "cache_dir", "use_cache", "num_workers"))
_DATA += ("training.device",)
_BATCH = "training.batch_size"
_FOLDERS = tuple(f"data.{name}" for name in ("images", "masks", "test_images", "test_masks"))
_OF_THE_RUN = "that of the run"


def _check_run(run: Path, values: Values, levels: int | None = None) -> None:
    """Check the run's folder and the options before torch is imported."""
    from squeeze_cli.runs import RunFolder  # here, so that `--help` does not wait for the records

    RunFolder(run).open_finished(values, levels)


@with_options(fields=(*_DATA, _BATCH, *_FOLDERS), default=_OF_THE_RUN)
def evaluate(
    run: Run,
    split: Measured = "test",
    neighbours: Annotated[
        bool, switch("--neighbours", "Measure the share of neighbours that decoded features keep.")
    ] = False,
    probe: Annotated[
        Path | None, option("Test a linear probe for labels: a CSV file `name,label`.", "FILE")
    ] = None,
    levels: Levels = None,
    *,
    values: Values,
    output: OutputOptions,
) -> None:
    """Measure a finished run: mean IoU, accuracy, distortion and codebook usage."""
    _check_run(run, values, levels)
    from squeeze_cli.inference.evaluation import evaluate_run
    from squeeze_cli.inference.trained_run import TrainedRun
    from squeeze_cli.reports.tables import evaluation_table

    opened = TrainedRun(run, values, levels)
    result = evaluate_run(opened, split, output.reporter(), neighbours=neighbours, probe=probe)
    output.show(result.model_dump(exclude_unset=True), evaluation_table(result))


@with_options(fields=(*_DATA, _BATCH), default=_OF_THE_RUN)
def show(
    run: Run,
    count: Annotated[int, option("Number of images.", "N", min=1, max=24)] = 5,
    best: Annotated[bool, switch("--best", "Show the images with the highest IoU.")] = False,
    worst: Annotated[bool, switch("--worst", "Show the images with the lowest IoU.")] = False,
    random: Annotated[bool, switch("--random", "Show images drawn by --seed.")] = False,
    seed: Annotated[int | None, option("Seed of --random. [default: 0]", "N")] = None,
    split: Measured = "test",
    baseline: Annotated[
        Path | None, option("Run to compare with. [default: a baseline in the same folder]", "RUN")
    ] = None,
    out: Annotated[
        Path | None, figure_option("Picture, .png or .svg. [default: in RUN/figures/]")
    ] = None,
    images: Annotated[  # the older name of --count
        int | None, option("Number of images.", "N", min=1, max=24, hidden=True)
    ] = None,
    *,
    values: Values,
    output: OutputOptions,
) -> None:
    """Draw images, ground truth, the baseline's predictions and the run's own, with their IoU.

    Images are spread evenly over the split unless --best, --worst or --random is given.
    """
    switches: dict[Literal["best", "worst", "random"], bool]
    switches = {"best": best, "worst": worst, "random": random}
    chosen = [how for how, on in switches.items() if on]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} contradict each other: use one.")
    if seed is not None and not random:
        raise UsageError("--seed has no effect without --random: add it, or leave --seed out.")
    _check_run(run, values)
    from squeeze_cli.inference.show import show_run
    from squeeze_cli.inference.trained_run import TrainedRun

    result = show_run(
        TrainedRun(run, values), split, output.reporter(), how=chosen[0] if chosen else "spread",
        count=images or count, seed=seed or 0, baseline=baseline, out=out,
    )  # fmt: skip
    if output.json:
        print_json(result)
    else:
        print_text(f"{result['file']}\n")


@dataclass(frozen=True)
class ExtractionOptions(Extraction):
    """Options of a request for an extraction."""

    split: Annotated[Split | None, option("Images of the run's data. [default: test]")] = None
    images: Annotated[
        str | None, option("Images in place of a split: folder, list, tar or address.", "PLACE")
    ] = None
    features: Annotated[
        Path | None, option("Features of another network, in place of images.", "PATH")
    ] = None
    feature_names: Annotated[Path | None, field_option("data.feature_names")] = None
    content: Annotated[
        Content,
        option(
            "Codes, features decoded from codes, or features before quantization.", None, "--format"
        ),
    ] = "codes"
    coding: Annotated[
        Coding | None, option("Coding of the codes. [default: prior, if the run has one]")
    ] = None
    out: Annotated[Path | None, option("Folder to write. [default: RUN/embeddings/]", "DIR")] = None
    overwrite: Overwrite = False
    levels: Levels = None
    num_workers: Annotated[
        int | None,
        option("Worker processes; 0 for threads. [default: one per core or GPU]", "N", min=0, max=4096),
    ] = None  # fmt: skip
    images_per_shard: Annotated[
        int | None, option("Images per file. [default: up to 1000]", "N", min=1)
    ] = None
    shard_index: Annotated[
        int | None, option("Write this part of the files, from 0. [default: the launcher's]", "I", min=0)
    ] = None  # fmt: skip
    num_shards: Annotated[int | None, option("Number of parts; 1 for all.", "N", min=1)] = None
    engine: Annotated[Engine, option("Workers of this machine, or a Ray cluster's.")] = "local"
    address: Annotated[
        str | None, option("Ray cluster: auto, local, HOST:PORT, ray://... [default: auto]", "RAY")
    ] = None
    gpus_per_worker: Annotated[
        float | None, option("GPUs of each Ray worker. [default: 1, if there are any]", "X", min=0)
    ] = None
    max_bad: Annotated[
        str | None, option("Limit on unreadable images: a number, or 1%. [default: none]", "N")
    ] = None


@with_options(fields=[key for key in _DATA if key != "data.num_workers"], default=_OF_THE_RUN)
def extract_embeddings(
    run: Run, *, values: Values, request: ExtractionOptions, output: OutputOptions
) -> None:
    """Write codes or features of images, and report their size.

    Files that exist are kept, so the same command continues a stopped extraction.
    """
    _check_run(run, values, request.levels)
    several = request.engine == "local" and request.num_workers not in (0, 1)
    if request.images is not None and several:
        from squeeze_cli.inference.fork_server import start_server

        start_server()  # it imports torch at the same time as this process
    from squeeze_cli.inference.extract import extract_embeddings
    from squeeze_cli.inference.trained_run import TrainedRun
    from squeeze_cli.reports.tables import extraction_table

    opened = TrainedRun(run, values, request.levels)
    result = extract_embeddings(opened, request, output.reporter())
    output.show(result.model_dump(exclude_unset=True), extraction_table(result))


@with_options()
def merge(
    folder: Annotated[Path, typer.Argument(help="Folder that all parts were written to.")],
    *,
    output: OutputOptions,
) -> None:
    """Check that an extraction in parts is complete, and write its manifest."""
    from squeeze_cli.codec.shards import merge_records

    manifest = merge_records(folder)
    text = f"{manifest.content} of {manifest.images} images in {manifest.shards} files in {folder}"
    skipped = f"; {manifest.skipped_images} could not be read" if manifest.skipped_images else ""
    output.show(manifest.model_dump(), text + skipped)


@with_options()
def decode(
    file: Annotated[Path, typer.Argument(help="A codes file, or a folder of extracted codes.")],
    content: Annotated[
        Literal["features", "masks"],
        option("Decoded features, or predicted masks as PNG files.", None, "--to"),
    ],
    out: Annotated[Path, option("Folder to write to.", "DIR")],
    run: Annotated[
        Path | None, option("Run of the codes. [default: the run whose folder holds them]", "RUN")
    ] = None,
    form: Annotated[
        Literal["safetensors", "npy", "parquet"] | None,
        option("Format of the features. [default: safetensors]", None, "--as"),
    ] = None,
    dtype: Annotated[
        Literal["float16", "float32"] | None, option("Type of the features. [default: float32]")
    ] = None,
    overwrite: Overwrite = False,
    device: Annotated[DeviceName, field_option("training.device")] = "auto",
    *,
    output: OutputOptions,
) -> None:
    """Decode codes to features or masks, by the run's folder alone: no images, no backbone."""
    from squeeze_cli.inference.decode import decode_codes

    result = decode_codes(
        file, content, out, output.reporter(), run=run, overwrite=overwrite, device=device, form=form,
        dtype=dtype,
    )  # fmt: skip
    output.show(result, f"{content} of {result['images']} images in {out}")
