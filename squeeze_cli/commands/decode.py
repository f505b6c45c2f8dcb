"""`squeeze decode`: codes back to features or masks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from squeeze_cli.config.schema import DeviceName
from squeeze_cli.console import Reporter, print_json
from squeeze_cli.options import Json, NoProgress, Quiet, Verbose

EXAMPLES = (
    "squeeze decode runs/vq-vit/codes/test.safetensors --to masks --out masks",
    "squeeze decode codes.safetensors --run runs/vq-vit --to features --out features",
)
CodesArgument = Annotated[
    Path, typer.Argument(help="A codes file, or a folder of extracted codes.", show_default=False)
]
Content = Annotated[
    Literal["features", "masks"],
    typer.Option("--to", help="Embeddings, or predicted masks as PNG files."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to.")]
Run = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help=r"Run that made the codes. \[default: the one in whose folder they lie]",
    ),
]
Device = Annotated[
    DeviceName,
    typer.Option("--device", metavar="NAME", help="Where to compute: auto, cpu, cuda or mps."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")]


def decode(
    file: CodesArgument,
    content: Content,
    out: Out,
    run: Run = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
) -> None:
    """Decode codes to embeddings or masks: no images, no backbone, only the run's folder."""
    reporter = Reporter(quiet, verbose, not no_progress)
    from squeeze_cli.inference.decode import decode_codes

    result = decode_codes(file, content, out, reporter, run=run, overwrite=overwrite, device=device)
    if json:
        print_json(asdict(result))
    else:
        reporter.show(f"{result.content} of {result.images} images in {result.out}")
