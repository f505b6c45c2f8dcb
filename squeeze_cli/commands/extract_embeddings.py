"""`squeeze extract-embeddings`: codes or embeddings of many images, as files that are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from squeeze_cli.commands.evaluate import EVALUATION_FLAGS, run_options
from squeeze_cli.commands.output import make_reporter, print_json
from squeeze_cli.options import takes

EXAMPLES = (
    "squeeze extract-embeddings runs/vq-efficientnet-lite0",
    "squeeze extract-embeddings runs/vq-efficientnet-lite0 --images holiday/",
    "squeeze extract-embeddings runs/fsq-vit --split all --format quantized",
)
_FLAGS = tuple(flag for flag in EVALUATION_FLAGS if flag.target != "training.batch_size")


@takes(_FLAGS)
def extract_embeddings(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", show_default=False)],
    split: Annotated[
        Literal["train", "val", "test", "all"] | None,
        typer.Option(
            "--split", help=r"Which images of the run's data. \[default: test]", show_default=False
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", metavar="DIR", show_default=False,
            help="Images in this folder and below it, instead of a split.",
        ),
    ] = None,
    content: Annotated[
        Literal["codes", "quantized", "features"],
        typer.Option(
            "--format",
            help="codes, embeddings made of the codes, or the features that went in.",
        ),
    ] = "codes",
    coding: Annotated[
        Literal["prior", "packed"] | None,
        typer.Option(
            "--coding", show_default=False,
            help=r"How codes become bytes. \[default: prior, where the run has one]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", show_default=False,
            help=r"Folder to write to. \[default: in RUN/embeddings/]",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where there is something.")
    ] = False,
    **flags: Any,
) -> None:  # fmt: skip
    """Write codes, quantized embeddings or features of images, and say what they cost.

    A stopped extraction goes on where it was when the same command is given again.
    """
    from squeeze_cli.api import extract

    reporter = make_reporter(flags)
    options = {k: v for k, v in run_options(flags).items() if k != "batch_size"}
    result = extract(
        run, images=images, split=split, content=content, coding=coding, out=out,
        overwrite=overwrite, reporter=reporter, **options,
    )  # fmt: skip
    if flags.get("json"):
        print_json(result.model_dump(exclude_unset=True))
        return
    from squeeze_cli.reports.inference_results import extraction_table

    reporter.show(extraction_table(result))
