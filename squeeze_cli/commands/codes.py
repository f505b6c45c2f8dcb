"""`squeeze extract-embeddings` and `squeeze decode`: images to codes, and codes back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from squeeze_cli.config.schema import DeviceName
from squeeze_cli.console import print_json
from squeeze_cli.options import (
    DataOptions,
    OutputOptions,
    Overwrite,
    RunArgument,
    field_option,
    option,
    with_options,
)

EXAMPLES = (
    "squeeze extract-embeddings runs/vq-efficientnet-lite0",
    "squeeze extract-embeddings runs/vq-efficientnet-lite0 --images holiday/",
    "squeeze extract-embeddings runs/fsq-vit --split all --format quantized",
    "squeeze decode runs/vq-vit/codes/test.safetensors --to masks --out masks",
    "squeeze decode codes.safetensors --run runs/vq-vit --to features --out features",
)


@with_options()
def extract_embeddings(
    run: RunArgument,
    split: Annotated[
        Literal["train", "val", "test", "all"] | None,
        option("--split", "Images of the run's data. [default: test]"),
    ] = None,
    images: Annotated[
        Path | None,
        option("--images", "Images in this folder and below it, in place of a split.", "DIR"),
    ] = None,
    content: Annotated[
        Literal["codes", "quantized", "features"],
        option("--format", "Codes, embeddings made of the codes, or the features that went in."),
    ] = "codes",
    coding: Annotated[
        Literal["prior", "packed"] | None,
        option("--coding", "How codes become bytes. [default: prior, where the run has one]"),
    ] = None,
    out: Annotated[
        Path | None, option("--out", "Folder to write to. [default: in RUN/embeddings/]", "DIR")
    ] = None,
    overwrite: Overwrite = False,
    *,
    data: DataOptions,
    output: OutputOptions,
) -> None:
    """Write codes, quantized embeddings or features of images, and say what they cost.

    A stopped extraction continues where it was when the same command is given again.
    """
    reporter = output.reporter()
    from squeeze_cli.api import extract
    from squeeze_cli.reports.tables import extraction_table

    result = extract(
        run, images=images, split=split, content=content, coding=coding, out=out,
        overwrite=overwrite, reporter=reporter, **vars(data),
    )  # fmt: skip
    if output.json:
        print_json(result.model_dump(exclude_unset=True))
    else:
        reporter.show(extraction_table(result))


@with_options()
def decode(
    file: Annotated[
        Path,
        typer.Argument(help="A codes file, or a folder of extracted codes.", show_default=False),
    ],
    content: Annotated[
        Literal["features", "masks"],
        option("--to", "Embeddings, or predicted masks as PNG files."),
    ],
    out: Annotated[Path, option("--out", "Folder to write to.", "DIR")],
    run: Annotated[
        Path | None,
        option(
            "--run", "Run that made the codes. [default: the one in whose folder they lie]", "RUN"
        ),
    ] = None,
    overwrite: Overwrite = False,
    device: Annotated[DeviceName, field_option("training.device")] = "auto",
    *,
    output: OutputOptions,
) -> None:
    """Decode codes to embeddings or masks: no images, no backbone, only the run's folder."""
    reporter = output.reporter()
    from squeeze_cli.inference.decode import decode_codes

    result = decode_codes(file, content, out, reporter, run=run, overwrite=overwrite, device=device)
    if output.json:
        print_json(result)
    else:
        reporter.show(f"{content} of {result['images']} images in {out}")
