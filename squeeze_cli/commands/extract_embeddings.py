"""`squeeze extract-embeddings`: codes or embeddings of many images, as files that are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from squeeze_cli import options
from squeeze_cli.console import Reporter, print_json

EXAMPLES = (
    "squeeze extract-embeddings runs/vq-efficientnet-lite0",
    "squeeze extract-embeddings runs/vq-efficientnet-lite0 --images holiday/",
    "squeeze extract-embeddings runs/fsq-vit --split all --format quantized",
)
Split = Annotated[
    Literal["train", "val", "test", "all"] | None,
    typer.Option("--split", help=r"Images of the run's data. \[default: test]"),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="DIR", help="Images in this folder and below it, in place of a split."
    ),
]
Content = Annotated[
    Literal["codes", "quantized", "features"],
    typer.Option(
        "--format", help="Codes, embeddings made of the codes, or the features that went in."
    ),
]
Coding = Annotated[
    Literal["prior", "packed"] | None,
    typer.Option(
        "--coding", help=r"How codes become bytes. \[default: prior, where the run has one]"
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help=r"Folder to write to. \[default: in RUN/embeddings/]"
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")]


def extract_embeddings(
    run: options.RunArgument,
    split: Split = None,
    images: Images = None,
    content: Content = "codes",
    coding: Coding = None,
    out: Out = None,
    overwrite: Overwrite = False,
    data_dir: options.DataDir = None,
    cache_dir: options.CacheDir = None,
    use_cache: options.UseCache = None,
    num_workers: options.NumWorkers = None,
    device: options.Device = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
) -> None:
    """Write codes, quantized embeddings or features of images, and say what they cost.

    A stopped extraction continues where it was when the same command is given again.
    """
    reporter = Reporter(quiet, verbose, not no_progress)
    from squeeze_cli.api import extract

    result = extract(
        run, images=images, split=split, content=content, coding=coding, out=out,
        overwrite=overwrite, data_dir=data_dir, cache_dir=cache_dir, use_cache=use_cache,
        num_workers=num_workers, device=device, reporter=reporter,
    )  # fmt: skip
    if json:
        print_json(result.model_dump(exclude_unset=True))
        return
    from squeeze_cli.reports.tables import extraction_table

    reporter.show(extraction_table(result))
